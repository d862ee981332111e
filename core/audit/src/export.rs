//! An export of the log: lines of JSON, and what can be proved from them.
//!
//! The first line names the mesh; then, control plane by control plane, come its checkpoint (if records were removed),
//! its records in order, and its signed head where the log ended when it was signed.

use std::collections::BTreeMap;
use std::io::BufRead;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::held::{Held, HeldHead};
use crate::{Content, Kind, PublicKey, Signed, Statement};

/// No line is longer: a record has a few texts of 2048 bytes at most.
const MAX_LINE: u64 = 64 * 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    Log(Origin),
    Record(RecordLine),
    Checkpoint(SignedLine),
    Head(SignedLine),
}

/// Whose log it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Origin {
    pub trust_domain: String,
    /// Of this format: 1.
    pub version: u32,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordLine {
    pub replica: String,
    pub sequence: u64,
    pub at: i64,
    pub event: String,
    pub spiffe_id: String,
    pub class: String,
    pub serial: String,
    pub not_after: Option<i64>,
    pub reason: String,
    pub actor: String,
    pub suppressed: u64,
    /// Hex, like `hash`.
    pub previous: String,
    pub hash: String,
}

/// A signed place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedLine {
    pub replica: String,
    pub sequence: u64,
    /// Hex.
    pub hash: String,
    pub at: i64,
    /// Base64 of DER.
    pub signature: String,
}

impl SignedLine {
    #[must_use]
    pub fn of(signed: &Signed) -> Self {
        let Statement { replica, sequence, hash, at, .. } = &signed.statement;
        Self {
            replica: replica.clone(),
            sequence: *sequence,
            hash: hex(hash),
            at: *at,
            signature: STANDARD.encode(&signed.signature),
        }
    }

    /// What was signed, if the line can be read; whether the audit key did is to be asked.
    #[must_use]
    pub fn signed(&self, kind: Kind, trust_domain: &str) -> Option<Signed> {
        let statement = Statement {
            kind,
            trust_domain: trust_domain.to_owned(),
            replica: self.replica.clone(),
            sequence: self.sequence,
            hash: unhex(&self.hash)?,
            at: self.at,
        };
        Some(Signed { statement, signature: STANDARD.decode(&self.signature).ok()? })
    }
}

/// What was found to be as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub trust_domain: String,
    pub replicas: BTreeMap<String, ReplicaReport>,
    /// Heads that somebody held and that are in the log.
    pub held: u64,
    /// Those of records that were removed since: nothing can be said of them.
    pub held_removed: u64,
}

/// The log of one control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    pub records: u64,
    /// Records up to this one were removed; 0: none.
    pub removed: u64,
    /// The last record.
    pub last: u64,
    /// The last record that a signature covers. Those after it are chained, but could have been cut off or replaced.
    pub signed: u64,
    /// When that was signed.
    pub signed_at: i64,
    hash: [u8; 32],
}

/// Why an export proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("line {line} is not a line of an export: {what}")]
    Line { line: u64, what: String },
    #[error("the first line does not say whose log it is")]
    Origin,
    #[error("line {line}: record {sequence} of {replica} was changed: its content does not have its hash")]
    Changed { line: u64, replica: String, sequence: u64 },
    #[error("line {line}: record {found} of {replica} is there, expected {expected}")]
    Missing { line: u64, replica: String, expected: u64, found: u64 },
    #[error("line {line}: record {sequence} of {replica} does not follow the one before it")]
    Broken { line: u64, replica: String, sequence: u64 },
    #[error("line {line}: the signature of {replica} at record {sequence} is not the audit key's")]
    Signature { line: u64, replica: String, sequence: u64 },
    #[error(
        "the log of {replica} ends at record {last}, but record {signed} was signed: records were cut off"
    )]
    Cut { replica: String, last: u64, signed: u64 },
    #[error("line {line}: what was signed at record {sequence} of {replica} is another log than this")]
    Fork { line: u64, replica: String, sequence: u64 },
    #[error(
        "the log of {replica} ends at record {last}, but {from} holds its end at record {sequence}, signed at {at}: records were cut off"
    )]
    HeldCut { from: String, replica: String, last: u64, sequence: u64, at: i64 },
    #[error(
        "record {sequence} of {replica} is not the one at which {from} holds the log's end, signed at {at}: the log was rewritten"
    )]
    HeldFork { from: String, replica: String, sequence: u64, at: i64 },
    #[error(
        "there is no log of {replica}, but {from} holds its end at record {sequence}, signed at {at}: it was removed"
    )]
    HeldGone { from: String, replica: String, sequence: u64, at: i64 },
    #[error(
        "{from} is of the trust domain {found:?}, and the log of {expected:?}: they do not belong together"
    )]
    HeldForeign { from: String, found: String, expected: String },
    #[error("no signature covers the log of {replica}: nothing says where it ended")]
    Unsigned { replica: String },
}

/// Verifies an export from its first line to its last.
///
/// # Errors
/// [`ExportError`]: what is wrong, and in which line.
pub fn verify(mut input: impl BufRead, key: &PublicKey, held: Vec<HeldHead>) -> Result<Report, ExportError> {
    let mut verifier = Verifier::new(key, held);
    let mut text = Vec::new();
    loop {
        text.clear();
        let length = std::io::Read::take(&mut input, MAX_LINE).read_until(b'\n', &mut text)?;
        if length == 0 {
            return verifier.finish();
        }
        verifier.line(&text)?;
    }
}

/// Verifies an export line by line, as it comes.
#[derive(Debug)]
pub struct Verifier<'k> {
    key: &'k PublicKey,
    number: u64,
    report: Option<Report>,
    held: Held,
}

impl<'k> Verifier<'k> {
    /// By the audit key, and what was held of the log elsewhere. Signatures of those are the caller's to look at
    /// ([`crate::Heads::signed_by`]).
    #[must_use]
    pub fn new(key: &'k PublicKey, held: Vec<HeldHead>) -> Self {
        Self { key, number: 0, report: None, held: Held::new(held) }
    }

    /// The next line.
    ///
    /// # Errors
    /// [`ExportError`]: what is wrong with it.
    pub fn line(&mut self, text: &[u8]) -> Result<(), ExportError> {
        self.number = self.number.saturating_add(1);
        let (number, key) = (self.number, self.key);
        let bad = |what: String| ExportError::Line { line: number, what };
        if text.last() != Some(&b'\n') && text.len() as u64 >= MAX_LINE {
            return Err(bad(format!("it is longer than {MAX_LINE} bytes")));
        }
        let line: Line = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        match (line, &mut self.report) {
            (Line::Log(origin), None) if origin.version == 1 => {
                self.held.origin(&origin.trust_domain)?;
                let (trust_domain, replicas) = (origin.trust_domain, BTreeMap::new());
                self.report = Some(Report { trust_domain, replicas, held: 0, held_removed: 0 });
                Ok(())
            }
            (Line::Log(_), _) | (_, None) => Err(ExportError::Origin),
            (Line::Record(record), Some(report)) => report.record(number, record, &mut self.held),
            (Line::Checkpoint(line), Some(report)) => report.checkpoint(number, &line, key, &mut self.held),
            (Line::Head(line), Some(report)) => report.head(number, &line, key),
        }
    }

    /// There are no more lines.
    ///
    /// # Errors
    /// [`ExportError`]: what is missing.
    pub fn finish(self) -> Result<Report, ExportError> {
        let mut report = self.report.ok_or(ExportError::Origin)?;
        self.held.finish(&mut report)?;
        match report.replicas.iter().find(|(_, log)| log.signed == 0) {
            Some((replica, _)) => Err(ExportError::Unsigned { replica: replica.clone() }),
            None => Ok(report),
        }
    }
}

impl Report {
    fn record(&mut self, line: u64, record: RecordLine, held: &mut Held) -> Result<(), ExportError> {
        let bad = |what: &str| ExportError::Line { line, what: what.to_owned() };
        let previous = unhex(&record.previous).ok_or_else(|| bad("`previous` is no SHA-256 in hex"))?;
        let hash = unhex(&record.hash).ok_or_else(|| bad("`hash` is no SHA-256 in hex"))?;
        let RecordLine { replica, sequence, .. } = &record;
        let (replica, sequence) = (replica.clone(), *sequence);
        let log = self.replicas.entry(replica.clone()).or_default();
        let expected = log.last.saturating_add(1);
        if sequence != expected {
            return Err(ExportError::Missing { line, replica, expected, found: sequence });
        }
        if previous != log.hash {
            return Err(ExportError::Broken { line, replica, sequence });
        }
        let content = Content {
            replica: &record.replica,
            sequence,
            at: record.at,
            event: &record.event,
            spiffe_id: &record.spiffe_id,
            class: &record.class,
            serial: &record.serial,
            not_after: record.not_after,
            reason: &record.reason,
            actor: &record.actor,
            suppressed: record.suppressed,
            previous: &previous,
        };
        if content.hash() != hash {
            return Err(ExportError::Changed { line, replica, sequence });
        }
        held.meet(&replica, sequence, &hash)?;
        log.records = log.records.saturating_add(1);
        log.last = sequence;
        log.hash = hash;
        Ok(())
    }

    fn signed(
        &self,
        line: u64,
        kind: Kind,
        it: &SignedLine,
        key: &PublicKey,
    ) -> Result<Statement, ExportError> {
        let signed = it.signed(kind, &self.trust_domain).filter(|signed| key.verifies(signed));
        let bad = || ExportError::Signature { line, replica: it.replica.clone(), sequence: it.sequence };
        Ok(signed.ok_or_else(bad)?.statement)
    }

    fn checkpoint(
        &mut self,
        line: u64,
        it: &SignedLine,
        key: &PublicKey,
        held: &mut Held,
    ) -> Result<(), ExportError> {
        let statement = self.signed(line, Kind::Checkpoint, it, key)?;
        let log = self.replicas.entry(statement.replica.clone()).or_default();
        if log.last != 0 {
            return Err(ExportError::Line { line, what: "a checkpoint follows records".into() });
        }
        held.meet(&statement.replica, statement.sequence, &statement.hash)?;
        log.removed = statement.sequence;
        log.last = statement.sequence;
        log.hash = statement.hash;
        log.signed = statement.sequence;
        log.signed_at = statement.at;
        Ok(())
    }

    fn head(&mut self, line: u64, it: &SignedLine, key: &PublicKey) -> Result<(), ExportError> {
        let statement = self.signed(line, Kind::Head, it, key)?;
        let log = self.replicas.entry(statement.replica.clone()).or_default();
        let (replica, sequence) = (statement.replica, statement.sequence);
        if sequence > log.last {
            return Err(ExportError::Cut { replica, last: log.last, signed: sequence });
        }
        if sequence != log.last || statement.hash != log.hash {
            return Err(ExportError::Fork { line, replica, sequence });
        }
        log.signed = sequence;
        log.signed_at = statement.at;
        Ok(())
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        let from = at.checked_mul(2)?;
        *byte = u8::from_str_radix(text.get(from..from.checked_add(2)?)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AuditKey;

    fn key() -> AuditKey {
        use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
        let random = ring::rand::SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        AuditKey::from_pkcs8(pkcs8.as_ref()).unwrap()
    }

    fn statement(kind: Kind, sequence: u64, hash: [u8; 32]) -> Statement {
        let (trust_domain, replica) = ("example.com".into(), "a".into());
        Statement { kind, trust_domain, replica, sequence, hash, at: 100 }
    }

    /// A log of five records, of which the first `removed` are only a checkpoint, signed at record `head`.
    fn lines(key: &AuditKey, removed: u64, head: u64) -> Vec<Line> {
        let mut out = vec![Line::Log(Origin { trust_domain: "example.com".into(), version: 1 })];
        let mut previous = [0u8; 32];
        for sequence in 1..=5 {
            let mut record = RecordLine {
                replica: "a".into(),
                sequence,
                at: 10,
                event: "issued".into(),
                spiffe_id: "spiffe://example.com/ns/shop/sa/orders".into(),
                class: "sidecar".into(),
                serial: "01".into(),
                not_after: Some(20),
                reason: String::new(),
                actor: "uid:0".into(),
                suppressed: 0,
                previous: hex(&previous),
                hash: String::new(),
            };
            previous = Content {
                replica: &record.replica,
                sequence,
                at: record.at,
                event: &record.event,
                spiffe_id: &record.spiffe_id,
                class: &record.class,
                serial: &record.serial,
                not_after: record.not_after,
                reason: &record.reason,
                actor: &record.actor,
                suppressed: record.suppressed,
                previous: &previous,
            }
            .hash();
            record.hash = hex(&previous);
            if sequence > removed {
                out.push(Line::Record(record));
            }
            let sign = |kind| SignedLine::of(&key.sign(statement(kind, sequence, previous)).unwrap());
            if sequence == removed {
                out.push(Line::Checkpoint(sign(Kind::Checkpoint)));
            }
            if sequence == head {
                out.push(Line::Head(sign(Kind::Head)));
            }
        }
        out
    }

    fn check(key: &AuditKey, lines: &[Line]) -> Result<Report, ExportError> {
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        verify(text.as_bytes(), &key.public(), Vec::new())
    }

    #[test]
    fn a_whole_export_says_how_far_it_is_signed() {
        let key = key();
        let report = check(&key, &lines(&key, 0, 4)).unwrap();
        let log = &report.replicas["a"];
        assert_eq!((log.records, log.removed, log.last, log.signed), (5, 0, 5, 4));
        let report = check(&key, &lines(&key, 2, 5)).unwrap();
        let log = &report.replicas["a"];
        assert_eq!((log.records, log.removed, log.last, log.signed), (3, 2, 5, 5));
    }

    #[test]
    fn every_edit_is_found() {
        let key = key();
        let good = lines(&key, 0, 5);
        let edit = |change: fn(&mut Vec<Line>)| {
            let mut lines = good.clone();
            change(&mut lines);
            check(&key, &lines).map(|_| ()).unwrap_err()
        };
        let changed = edit(|lines| {
            if let Line::Record(record) = &mut lines[3] {
                record.actor = "uid:1".into();
            }
        });
        assert!(matches!(changed, ExportError::Changed { sequence: 3, .. }), "{changed}");
        let missing = edit(|lines| drop(lines.remove(3)));
        assert!(matches!(missing, ExportError::Missing { expected: 3, found: 4, .. }), "{missing}");
        let cut = edit(|lines| drop(lines.remove(5)));
        assert!(matches!(cut, ExportError::Cut { last: 4, signed: 5, .. }), "{cut}");
        let unsigned = edit(|lines| drop(lines.pop()));
        assert!(matches!(unsigned, ExportError::Unsigned { .. }), "{unsigned}");
        let nobodys = edit(|lines| drop(lines.remove(0)));
        assert!(matches!(nobodys, ExportError::Origin), "{nobodys}");
        let forged = check(&super::tests::key(), &good).unwrap_err();
        assert!(matches!(forged, ExportError::Signature { .. }), "{forged}");
        let moved = edit(|lines| {
            if let Line::Log(origin) = &mut lines[0] {
                origin.trust_domain = "example.org".into();
            }
        });
        assert!(matches!(moved, ExportError::Signature { .. }), "{moved}");
    }

    #[test]
    fn a_beginning_that_was_cut_off_needs_a_checkpoint() {
        let key = key();
        let mut lines = lines(&key, 2, 5);
        lines.remove(1);
        let error = check(&key, &lines).unwrap_err();
        assert!(matches!(error, ExportError::Missing { expected: 1, found: 3, .. }), "{error}");
    }

    #[test]
    fn junk_and_lines_without_end_are_refused() {
        let key = key().public();
        assert!(matches!(verify(&b""[..], &key, Vec::new()), Err(ExportError::Origin)));
        assert!(matches!(verify(&b"{}\n"[..], &key, Vec::new()), Err(ExportError::Line { line: 1, .. })));
        let long = vec![b'x'; 100_000];
        assert!(matches!(verify(&long[..], &key, Vec::new()), Err(ExportError::Line { line: 1, .. })));
    }

    fn held(key: &AuditKey, lines: &[Line], heads: &[(&str, u64, [u8; 32])]) -> Result<Report, ExportError> {
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        let heads = heads.iter().map(|(replica, sequence, hash)| HeldHead {
            from: "web.json".into(),
            statement: Statement { replica: (*replica).into(), ..statement(Kind::Head, *sequence, *hash) },
        });
        verify(text.as_bytes(), &key.public(), heads.collect())
    }

    #[test]
    fn a_log_that_was_cut_back_or_rewritten_and_signed_anew_is_found_out_by_whoever_held_its_end() {
        let key = key();
        let whole = lines(&key, 0, 5);
        let hash = |sequence: u64| match &whole[usize::try_from(sequence).unwrap()] {
            Line::Record(record) => unhex(&record.hash).unwrap(),
            other => panic!("{other:?}"),
        };
        let good = [("a", 2, hash(2)), ("a", 5, hash(5)), ("a", 5, hash(5))];
        assert_eq!(held(&key, &whole, &good).unwrap().held, 3);
        // Whoever has the audit key's process signs the shorter log, too: the export alone is in good order.
        let cut: Vec<Line> = lines(&key, 0, 4).into_iter().take(6).collect();
        check(&key, &cut).unwrap();
        let error = held(&key, &cut, &good).unwrap_err();
        assert!(matches!(&error, ExportError::HeldCut { last: 4, sequence: 5, .. }), "{error}");
        assert!(error.to_string().contains("web.json holds its end at record 5"), "{error}");
        let error = held(&key, &whole, &[("a", 3, [9; 32])]).unwrap_err();
        assert!(matches!(&error, ExportError::HeldFork { sequence: 3, .. }), "{error}");
        assert!(error.to_string().contains("was rewritten"), "{error}");
        let error = held(&key, &whole, &[("b", 1, [9; 32])]).unwrap_err();
        assert!(matches!(&error, ExportError::HeldGone { .. }), "{error}");
    }

    #[test]
    fn a_head_of_what_was_removed_since_says_nothing_unless_the_checkpoint_is_its_record() {
        let key = key();
        let (whole, rest) = (lines(&key, 0, 5), lines(&key, 2, 5));
        let Line::Record(second) = &whole[2] else { panic!("a record") };
        let second = unhex(&second.hash).unwrap();
        let report = held(&key, &rest, &[("a", 1, [9; 32]), ("a", 2, second)]).unwrap();
        assert_eq!((report.held, report.held_removed), (1, 1));
        let error = held(&key, &rest, &[("a", 2, [9; 32])]).unwrap_err();
        assert!(matches!(error, ExportError::HeldFork { sequence: 2, .. }), "{error}");
    }

    #[test]
    fn heads_of_another_mesh_are_not_compared() {
        let key = key();
        let foreign = HeldHead {
            from: "web.json".into(),
            statement: Statement { trust_domain: "example.org".into(), ..statement(Kind::Head, 1, [1; 32]) },
        };
        let text: String =
            lines(&key, 0, 5).iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        let error = verify(text.as_bytes(), &key.public(), vec![foreign]).unwrap_err();
        assert!(matches!(error, ExportError::HeldForeign { .. }), "{error}");
    }
}
