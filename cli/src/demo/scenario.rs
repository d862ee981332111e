//! `signet demo --check`: the scenario that the demo invites to, played by itself. Each claim is
//! printed with what was observed; one that does not hold makes the whole fail.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use signet_proto::v1::operator_client::OperatorClient;
use signet_proto::v1::{ExplainDecisionRequest, IssuanceRecord};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::http::{brief, header, send};
use super::plan::Plan;
use super::processes::Processes;
use crate::operator::print;

/// A certificate of two minutes is renewed after forty seconds, give or take ten per cent.
const ROTATION: Duration = Duration::from_secs(90);
/// A refusal reaches the control plane within moments.
const REPORTED: Duration = Duration::from_secs(10);

type Evidence = anyhow::Result<String>;

pub(crate) async fn check(
    plan: &Plan,
    client: OperatorClient<Channel>,
    rotations: Streaming<IssuanceRecord>,
    processes: &mut Processes,
) -> anyhow::Result<()> {
    let play = Play { plan, client };
    play.wait_for_keys().await?;
    let mut report = Report::default();
    report.claim("alice is let in, and the third service knows that it works for her", play.alice().await)?;
    report.claim("alice may place an order", play.alice_orders().await)?;
    report.claim("bob is refused with a decision id, and the reason can be asked for", play.bob().await)?;
    report.claim("without a token: 401 with a challenge", play.nobody().await)?;
    report.claim("a forged token is refused, and not told why", play.forged_token().await)?;
    report.claim("two Authorization headers are refused", play.twice().await)?;
    report.claim("forged identity headers never arrive", play.forged_headers().await)?;
    report.claim("a sidecar refuses plaintext", play.plaintext().await)?;
    report.claim("a service that speaks first is reached over the mesh", play.ledger().await)?;
    report.claim("the intruder is refused at an HTTP service", play.intruder().await)?;
    report.claim("the intruder is refused at a TCP service", play.intruder_tcp().await)?;
    print("        (waiting until every certificate has rotated: less than a minute)")?;
    report.claim("certificates rotate, and no request fails meanwhile", play.rotation(rotations).await)?;
    report.claim("no token and no key stands in a log", play.logs(processes).await)?;
    report.finish(processes)
}

#[derive(Default)]
struct Report {
    held: usize,
    failed: usize,
}

impl Report {
    fn claim(&mut self, claim: &str, evidence: Evidence) -> anyhow::Result<()> {
        match evidence {
            Ok(evidence) => {
                self.held += 1;
                print(&format!("  ok    {claim}\n          {evidence}"))
            }
            Err(error) => {
                self.failed += 1;
                print(&format!("  FAIL  {claim}\n          {error:#}"))
            }
        }
    }

    fn finish(&self, processes: &Processes) -> anyhow::Result<()> {
        print(&format!(
            "\n{} claims hold, {} fail; {} processes",
            self.held,
            self.failed,
            processes.count()
        ))?;
        ensure!(self.failed == 0, "{} of the demo's claims do not hold", self.failed);
        Ok(())
    }
}

struct Play<'a> {
    plan: &'a Plan,
    client: OperatorClient<Channel>,
}

impl Play<'_> {
    async fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<hyper::Response<bytes::Bytes>> {
        send("GET", &self.plan.gateway, path, headers).await
    }

    async fn token(&self, user: &str) -> anyhow::Result<String> {
        let answer = send("POST", &self.plan.issuer, &format!("/token/{user}"), &[]).await?;
        let answer: serde_json::Value = serde_json::from_slice(answer.body())?;
        Ok(format!("Bearer {}", answer["access_token"].as_str().context("the issuer gave no token")?))
    }

    /// The gateway may be up before the control plane has fetched the issuer's keys: 503 until then.
    async fn wait_for_keys(&self) -> anyhow::Result<()> {
        let alice = self.token("alice").await?;
        let ready = async {
            loop {
                match self.get("/", &[("authorization", &alice)]).await {
                    Ok(answer) if answer.status() != 503 => return,
                    _ => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(REPORTED, ready).await.context("the gateway was not ready to check tokens in time")
    }

    async fn alice(&self) -> Evidence {
        let alice = self.token("alice").await?;
        let answer = self.get("/orders", &[("authorization", &alice)]).await?;
        ensure!(answer.status() == 200, "expected 200, got {}: {}", answer.status(), brief(&answer));
        let body: serde_json::Value = serde_json::from_slice(answer.body())?;
        let order = &body["orders"][0];
        for seen in [&body["seen_by_web"], &order["seen_by_orders"], &order["seen_by_inventory"]] {
            ensure!(seen == "demo-idp|alice", "a service saw {seen}: {}", brief(&answer));
        }
        Ok(format!("200; web, orders and inventory each saw {}", order["seen_by_inventory"]))
    }

    async fn alice_orders(&self) -> Evidence {
        let alice = self.token("alice").await?;
        let answer = send("POST", &self.plan.gateway, "/orders/plum", &[("authorization", &alice)]).await?;
        ensure!(answer.status() == 201, "expected 201, got {}: {}", answer.status(), brief(&answer));
        Ok(format!("201 {}", brief(&answer)))
    }

    async fn bob(&self) -> Evidence {
        let bob = self.token("bob").await?;
        let answer = self.get("/orders", &[("authorization", &bob)]).await?;
        ensure!(answer.status() == 403, "expected 403, got {}: {}", answer.status(), brief(&answer));
        let id = header(&answer, "signet-decision-id").to_owned();
        ensure!(!id.is_empty(), "the answer has no signet-decision-id");
        ensure!(header(&answer, "signet-deny-reason").is_empty(), "the reason was told to an outside caller");
        let explanation = self.explain(&id).await?;
        let why = explanation["reason"].as_str().unwrap_or_default();
        ensure!(
            why.contains("who-may-see-orders"),
            "the explanation does not name the policy that came nearest: {explanation}"
        );
        Ok(format!("403, decision {id}: {why}"))
    }

    async fn explain(&self, id: &str) -> anyhow::Result<serde_json::Value> {
        let asked = async {
            loop {
                let request = ExplainDecisionRequest { id: id.to_owned() };
                match self.client.clone().explain_decision(request).await {
                    Ok(answer) => return Ok(serde_json::from_str(&answer.into_inner().json)?),
                    Err(status) if status.code() == Code::NotFound => sleep(Duration::from_millis(50)).await,
                    Err(status) => bail!("asking why: {status}"),
                }
            }
        };
        timeout(REPORTED, asked).await.context("the decision never reached the control plane")?
    }

    async fn nobody(&self) -> Evidence {
        let answer = self.get("/orders", &[]).await?;
        let challenge = header(&answer, "www-authenticate");
        ensure!(answer.status() == 401, "expected 401, got {}", answer.status());
        ensure!(
            challenge.starts_with("Bearer ") && !challenge.contains("error="),
            "challenge: {challenge:?}"
        );
        Ok(format!("401, WWW-Authenticate: {challenge}"))
    }

    async fn forged_token(&self) -> Evidence {
        let alice = self.token("alice").await?;
        // One character of the signature.
        let (rest, last) = alice.split_at(alice.len() - 10);
        let forged = format!("{rest}{}{}", if last.starts_with('A') { 'B' } else { 'A' }, &last[1..]);
        let answer = self.get("/orders", &[("authorization", &forged)]).await?;
        let challenge = header(&answer, "www-authenticate");
        ensure!(answer.status() == 401, "expected 401, got {}", answer.status());
        ensure!(challenge.contains("error=\"invalid_token\""), "challenge: {challenge:?}");
        Ok(format!("401, WWW-Authenticate: {challenge}"))
    }

    async fn twice(&self) -> Evidence {
        let (alice, bob) = (self.token("alice").await?, self.token("bob").await?);
        let answer = self.get("/orders", &[("authorization", &bob), ("authorization", &alice)]).await?;
        ensure!(answer.status() == 400, "expected 400, got {}: {}", answer.status(), brief(&answer));
        Ok("400, neither of them was used".into())
    }

    async fn forged_headers(&self) -> Evidence {
        let alice = self.token("alice").await?;
        let forged = [
            ("authorization", alice.as_str()),
            ("signet-user", "eyJzdWIiOiJtYWxsb3J5In0"),
            ("Txn_Token", "mallory"),
            ("txn-token", "mallory"),
            ("x-forwarded-client-cert", "URI=spiffe://demo.signet/ns/shop/sa/mallory"),
            ("connection", "signet-user, txn-token"),
        ];
        let answer = self.get("/whoami", &forged).await?;
        let body: serde_json::Value = serde_json::from_slice(answer.body()).context(brief(&answer))?;
        let text = body.to_string();
        ensure!(body["user"]["sub"] == "demo-idp|alice", "web saw {}", body["user"]);
        ensure!(!text.contains("mallory"), "a forged value arrived: {text}");
        let workload = body["workload"].as_str().unwrap_or_default();
        ensure!(workload.contains("/ns/edge/sa/gateway"), "web was told that {workload:?} calls");
        Ok(format!("web saw user {} and caller {workload}", body["user"]["sub"]))
    }

    async fn plaintext(&self) -> Evidence {
        let answer = send("GET", self.plan.web_inbound(), "/orders", &[]).await?;
        let reason = header(&answer, "signet-deny-reason");
        ensure!(answer.status() == 403, "expected 403, got {}", answer.status());
        Ok(format!("403, signet-deny-reason: {reason}"))
    }

    async fn ledger(&self) -> Evidence {
        let alice = self.token("alice").await?;
        let answer = self.get("/ledger", &[("authorization", &alice)]).await?;
        ensure!(answer.status() == 200, "expected 200, got {}: {}", answer.status(), brief(&answer));
        Ok(brief(&answer))
    }

    async fn intruder(&self) -> Evidence {
        let answer = send("GET", self.plan.intruder_inventory(), "/stock/apple", &[]).await?;
        let id = header(&answer, "signet-decision-id").to_owned();
        ensure!(answer.status() == 403, "expected 403, got {}: {}", answer.status(), brief(&answer));
        let why = self.explain(&id).await?;
        ensure!(why.to_string().contains("sa/intruder"), "the explanation does not name the caller: {why}");
        Ok(format!("403, decision {id}"))
    }

    async fn intruder_tcp(&self) -> Evidence {
        let mut stream = match TcpStream::connect(self.plan.intruder_ledger()).await {
            Ok(stream) => stream,
            // Taken, and cut before we were told so.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Ok(format!("cut without a byte of the ledger's greeting ({error})"));
            }
            Err(error) => return Err(error.into()),
        };
        // The connection may be cut before or after this line: either is a refusal.
        let _ = stream.write_all(b"let me in\n").await;
        let mut answer = Vec::new();
        let end =
            timeout(REPORTED, stream.read_to_end(&mut answer)).await.context("the connection stayed open")?;
        ensure!(answer.is_empty(), "the ledger answered {:?}", String::from_utf8_lossy(&answer));
        Ok(match end {
            Ok(_) => "closed without a byte of the ledger's greeting".into(),
            Err(error) => format!("closed without a byte of the ledger's greeting ({error})"),
        })
    }

    /// Every workload's certificate is renewed at least once while requests go through.
    async fn rotation(&self, mut rotations: Streaming<IssuanceRecord>) -> Evidence {
        let alice = self.token("alice").await?;
        let headers = [("authorization", alice.as_str())];
        let (renewed, requests) = (RefCell::new(HashSet::new()), Cell::new(0u32));
        let all_renewed = async {
            while renewed.borrow().len() < self.plan.sidecars.len() {
                let record = rotations.message().await?.context("the control plane ended its stream")?;
                if record.event == "renewed" {
                    renewed.borrow_mut().insert(record.spiffe_id);
                }
            }
            Ok(())
        };
        let load = async {
            loop {
                let answer = self.get("/orders", &headers).await?;
                let nth = requests.get() + 1;
                ensure!(answer.status() == 200, "request {nth} got {}: {}", answer.status(), brief(&answer));
                requests.set(nth);
            }
        };
        let watch = async {
            tokio::select! {
                done = all_renewed => done,
                failed = load => failed,
            }
        };
        match timeout(ROTATION, watch).await {
            Ok(done) => done?,
            Err(_) => bail!(
                "only {} of {} certificates rotated in time",
                renewed.borrow().len(),
                self.plan.sidecars.len()
            ),
        }
        Ok(format!("{} workloads renewed; {} requests, 0 failed", renewed.borrow().len(), requests.get()))
    }

    async fn logs(&self, processes: &Processes) -> Evidence {
        let logs = processes.read_logs()?;
        for secret in ["eyJ", "PRIVATE KEY"] {
            if let Some(line) = logs.lines().find(|line| line.contains(secret)) {
                bail!("found {secret:?} in a line of {} characters", line.len());
            }
        }
        for sidecar in &self.plan.sidecars {
            let bundle = std::fs::read_to_string(self.plan.home(sidecar).join("join.json"))?;
            let bundle: serde_json::Value = serde_json::from_str(&bundle)?;
            let token = bundle["token"].as_str().context("a join bundle without token")?;
            ensure!(!logs.contains(token), "the join token of {} stands in a log", sidecar.name);
        }
        Ok(format!("{} lines read", logs.lines().count()))
    }
}
