//! Requests for certificates, on their way to the authority: what is asked while a call is under way goes together with
//! the next one.
//!
//! A process that comes alone is asked for at once. When a host starts, or its agent renews what all of its processes have,
//! hundreds of requests become a few calls, and each costs the authority a fraction of a call of its own.

use std::sync::Arc;

use signet_proto::v1;
use signet_proto::v1::process_x509_outcome::Outcome;
use signet_proto::v1::processes_client::ProcessesClient;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

use crate::control::plane::ControlPlane;
use crate::identity::{MAX_ANSWER, call};

/// As many as the authority takes in one call.
const MOST: usize = 32;
/// What waits beyond this waits to be put into line.
const LINE: usize = 256;

/// One request, and where its answer goes. Whoever asked may be gone by then.
struct Asked {
    process: v1::ProcessX509,
    tell: oneshot::Sender<Result<v1::IssuedSvid, Status>>,
}

/// See the module's story.
pub(super) struct Requests(mpsc::Sender<Asked>);

impl Requests {
    /// A line to the authority, served until nobody is left who could ask.
    pub(super) fn to(plane: Arc<ControlPlane>) -> Self {
        Self::served_by(move |processes| {
            let plane = plane.clone();
            async move { ask(&plane, processes).await }
        })
    }

    fn served_by<F>(send: impl Fn(Vec<v1::ProcessX509>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Vec<v1::ProcessX509Outcome>, Status>> + Send + 'static,
    {
        let (line, mut asked) = mpsc::channel(LINE);
        tokio::spawn(async move {
            let mut together: Vec<Asked> = Vec::new();
            while asked.recv_many(&mut together, MOST).await > 0 {
                // Nothing is issued to who is gone.
                together.retain(|asked| !asked.tell.is_closed());
                if together.is_empty() {
                    continue;
                }
                let (processes, tell): (Vec<_>, Vec<_>) =
                    together.drain(..).map(|Asked { process, tell }| (process, tell)).unzip();
                let outcomes = send(processes).await;
                hand_out(outcomes, tell);
            }
        });
        Self(line)
    }

    /// Asks for one, and says what came of it.
    pub(super) async fn ask(&self, process: v1::ProcessX509) -> Result<v1::IssuedSvid, Status> {
        let over = || Status::unavailable("the agent ends");
        let (tell, told) = oneshot::channel();
        self.0.send(Asked { process, tell }).await.map_err(|_| over())?;
        told.await.map_err(|_| over())?
    }
}

fn hand_out(
    outcomes: Result<Vec<v1::ProcessX509Outcome>, Status>,
    tell: Vec<oneshot::Sender<Result<v1::IssuedSvid, Status>>>,
) {
    let outcomes = outcomes.and_then(|outcomes| match outcomes.len() == tell.len() {
        true => Ok(outcomes),
        // Whose is whose would be a guess.
        false => Err(Status::internal(format!("expected {} answers, got {}", tell.len(), outcomes.len()))),
    });
    match outcomes {
        Ok(outcomes) => {
            for (tell, outcome) in tell.into_iter().zip(outcomes) {
                let result = match outcome.outcome {
                    Some(Outcome::Issued(issued)) => Ok(issued),
                    Some(Outcome::Refused(v1::ProcessRefusal { code, message })) => {
                        Err(Status::new(Code::from(code), message))
                    }
                    None => Err(Status::internal("an answer that says nothing")),
                };
                // Whoever left meanwhile needs none.
                let _ = tell.send(result);
            }
        }
        Err(status) => {
            for tell in tell {
                let _ = tell.send(Err(status.clone()));
            }
        }
    }
}

async fn ask(
    plane: &ControlPlane,
    processes: Vec<v1::ProcessX509>,
) -> Result<Vec<v1::ProcessX509Outcome>, Status> {
    let (_, link) = plane.link().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let origin = link.origin();
    let mut client = ProcessesClient::with_origin(link, origin).max_decoding_message_size(MAX_ANSWER);
    Ok(call(client.issue_x509(v1::IssueProcessX509Request { processes })).await?.outcomes)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn named(name: &str) -> v1::ProcessX509 {
        v1::ProcessX509 { registration: name.to_owned(), ..v1::ProcessX509::default() }
    }

    fn granted(process: &v1::ProcessX509) -> v1::ProcessX509Outcome {
        let outcome = match process.registration.as_str() {
            "bad" => Outcome::Refused(v1::ProcessRefusal {
                code: Code::PermissionDenied.into(),
                message: "not this one".to_owned(),
            }),
            name => {
                Outcome::Issued(v1::IssuedSvid { spiffe_id: name.to_owned(), ..v1::IssuedSvid::default() })
            }
        };
        v1::ProcessX509Outcome { outcome: Some(outcome) }
    }

    /// A line whose calls wait for a word each, and the sizes of the calls.
    fn line() -> (Arc<Requests>, mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<usize>) {
        let (go, gone) = mpsc::unbounded_channel();
        let (sizes, seen) = mpsc::unbounded_channel();
        let gone = Arc::new(tokio::sync::Mutex::new(gone));
        let requests = Requests::served_by(move |processes: Vec<v1::ProcessX509>| {
            sizes.send(processes.len()).unwrap();
            let gone = gone.clone();
            async move {
                gone.lock().await.recv().await.unwrap();
                Ok(processes.iter().map(granted).collect())
            }
        });
        (Arc::new(requests), go, seen)
    }

    #[tokio::test]
    async fn what_is_asked_during_a_call_goes_together_and_each_gets_its_own_answer() {
        let (requests, go, mut sizes) = line();
        let ask = |name: String| {
            let requests = requests.clone();
            tokio::spawn(async move { requests.ask(named(&name)).await })
        };
        let first = ask("first".into());
        assert_eq!(sizes.recv().await, Some(1), "nobody waits for company");
        let mut others: Vec<_> = (0..40).map(|n| ask(format!("n{n}"))).collect();
        others.push(ask("bad".into()));
        // Whoever leaves is not asked for.
        let leaver = ask("leaver".into());
        while requests.0.capacity() > LINE - 42 {
            tokio::task::yield_now().await;
        }
        leaver.abort();
        assert!(leaver.await.unwrap_err().is_cancelled());
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        assert_eq!(first.await.unwrap().unwrap().spiffe_id, "first");
        let bad = others.pop().unwrap().await.unwrap().unwrap_err();
        assert_eq!((bad.code(), bad.message()), (Code::PermissionDenied, "not this one"));
        for (n, other) in others.into_iter().enumerate() {
            assert_eq!(other.await.unwrap().unwrap().spiffe_id, format!("n{n}"));
        }
        assert_eq!((sizes.recv().await, sizes.recv().await), (Some(MOST), Some(41 - MOST)));
    }

    #[tokio::test]
    async fn a_call_that_fails_or_answers_for_others_fails_for_all_of_it_and_the_next_goes_on() {
        let answers: Mutex<Vec<Result<Vec<v1::ProcessX509Outcome>, Status>>> = Mutex::new(vec![
            Ok(vec![granted(&named("a"))]),
            Ok(vec![]),
            Ok(vec![v1::ProcessX509Outcome { outcome: None }]),
            Err(Status::unavailable("away")),
        ]);
        let requests = Requests::served_by(move |_| {
            let answer = answers.lock().unwrap().pop().unwrap();
            async move { answer }
        });
        for code in [Code::Unavailable, Code::Internal, Code::Internal] {
            assert_eq!(requests.ask(named("a")).await.unwrap_err().code(), code);
        }
        requests.ask(named("a")).await.unwrap();
    }
}
