//! The issuance log for those who look into it, behind the operator's door.

use signet_ca::{Cursor, Search};
use signet_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use super::operator::Operators;

/// Records of one answer without a number, and at most.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 1_000;
/// Lines of an export that wait for a slow reader.
const WAITING: usize = 256;

#[tonic::async_trait]
impl v1::audit_server::Audit for Operators {
    async fn search(
        &self,
        request: Request<v1::SearchLogRequest>,
    ) -> Result<Response<v1::SearchLogResponse>, Status> {
        let call = self.call("search_log", &request)?;
        let asked = request.into_inner();
        let detail = format!("{:?} {:?} {:?}", asked.spiffe_id, asked.serial, asked.event);
        let result = self.search(asked).await;
        call.end(&detail, result)
    }

    type ExportStream = ReceiverStream<Result<v1::ExportLogLine, Status>>;

    async fn export(
        &self,
        request: Request<v1::ExportLogRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let call = self.call("export_log", &request)?;
        let (tell, told) = mpsc::channel(WAITING);
        let (lines, mut read) = mpsc::channel(WAITING);
        let authority = self.authority.clone();
        tokio::spawn(async move {
            let exporting = authority.export(lines);
            let handing_on = async {
                while let Some(line) = read.recv().await {
                    let json =
                        serde_json::to_string(&line).map_err(|error| Status::internal(error.to_string()));
                    if tell.send(json.map(|json| v1::ExportLogLine { json })).await.is_err() {
                        read.close();
                    }
                }
            };
            let (exported, ()) = tokio::join!(exporting, handing_on);
            if let Err(error) = exported {
                // Half an export must not look like a whole one.
                let _ = tell.send(Err(convert::operator_status(&error))).await;
            }
        });
        call.end("", Ok(ReceiverStream::new(told)))
    }

    async fn key(
        &self,
        request: Request<v1::AuditKeyRequest>,
    ) -> Result<Response<v1::AuditKeyResponse>, Status> {
        let pem = self.authority.audit_key().to_pem();
        self.call("audit_key", &request)?.end("", Ok(v1::AuditKeyResponse { pem }))
    }
}

impl Operators {
    async fn search(&self, asked: v1::SearchLogRequest) -> Result<v1::SearchLogResponse, Status> {
        let after = match asked.page.as_str() {
            "" => None,
            page => Some(read_page(page).ok_or_else(|| Status::invalid_argument("page: not of an answer"))?),
        };
        let limit = if asked.limit == 0 { PAGE } else { asked.limit.min(PAGE_MAX) };
        let wanted = Search {
            spiffe_id: asked.spiffe_id,
            serial: asked.serial.to_ascii_lowercase(),
            event: asked.event,
            since: asked.since,
            until: if asked.until == 0 { i64::MAX } else { asked.until },
            after,
            limit,
        };
        let found = self.authority.search(wanted).await.map_err(|error| convert::operator_status(&error))?;
        let full = u32::try_from(found.len()).is_ok_and(|count| count == limit);
        let next_page = found.last().filter(|_| full).map(|last| page(last.at, last.sequence, &last.replica));
        let records = found
            .iter()
            .map(|record| v1::LogRecord {
                replica: record.replica.clone(),
                record: Some(convert::record(record)),
            })
            .collect();
        Ok(v1::SearchLogResponse { records, next_page: next_page.unwrap_or_default() })
    }
}

fn page(at: i64, sequence: u64, replica: &str) -> String {
    format!("{at}:{sequence}:{replica}")
}

fn read_page(text: &str) -> Option<Cursor> {
    let mut parts = text.splitn(3, ':');
    let (at, sequence, replica) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Cursor { at: at.parse().ok()?, sequence: sequence.parse().ok()?, replica: replica.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_back_whatever_a_replica_is_called() {
        let cursor = read_page(&page(7, 9, "a:b c")).unwrap();
        assert_eq!(cursor, Cursor { at: 7, sequence: 9, replica: "a:b c".into() });
        for bad in ["x", "1:2", "1:x:a", ":::"] {
            assert!(read_page(bad).is_none(), "{bad}");
        }
    }
}
