//! Every exchange that was recorded from a real API server ends as this table says.

use signet_ca::Refusal::{
    self, EvidenceAudience as Audience, EvidenceExpired as Expired, EvidenceMalformed as Malformed,
    EvidencePod as Pod, EvidenceRefused as Refused, EvidenceUnbound as Unbound,
};
use signet_control_plane::attest::kubernetes::Failure;
use signet_control_plane::attest::review::{self, Unusable};
use signet_tests::apiserver::{Exchange, recordings};

use super::{Cluster, reason};

/// When the recordings were made.
const THEN: i64 = 1_795_307_148;

enum Ends {
    /// As the pod web-1 of shop/web.
    Proven,
    Refused(Refusal),
    /// Refused, and the server is not even asked.
    Unasked(Refusal),
    /// Nobody can say: the server does not let us ask.
    Unavailable,
    /// A question that we never ask; its answer to ours would end so.
    Foreign(Result<(), Refusal>),
}

use Ends::{Foreign, Proven, Unasked, Unavailable};

const TABLE: [(&str, Ends); 36] = [
    ("alg-none", Ends::Refused(Refused)),
    ("bad-signature", Ends::Refused(Refused)),
    ("caller-anonymous", Unavailable),
    ("caller-forbidden", Unavailable),
    ("default-audience-token-mesh-asked", Ends::Refused(Audience)),
    ("default-audience-token-none-asked", Foreign(Err(Audience))),
    ("empty-audience-list", Foreign(Err(Audience))),
    ("empty-token", Unasked(Malformed)),
    ("expired", Ends::Refused(Expired)),
    // The server is generous for some seconds; we are not.
    ("expired-5s-ago", Ends::Refused(Expired)),
    ("garbage", Unasked(Malformed)),
    ("legacy-secret-deleted", Foreign(Err(Refused))),
    ("legacy-secret-mesh-asked", Unasked(Malformed)),
    ("legacy-secret-none-asked", Foreign(Err(Audience))),
    ("no-audience-asked", Foreign(Err(Audience))),
    ("node-bound", Ends::Refused(Unbound)),
    ("not-bound", Ends::Refused(Unbound)),
    ("not-yet-valid", Ends::Refused(Refused)),
    ("one-of-asked-audiences", Foreign(Ok(()))),
    ("pod-deleted", Ends::Refused(Pod)),
    ("pod-deleted-11s-later", Ends::Refused(Refused)),
    // The server remembers a good answer for ten seconds: what was true then is still said.
    ("pod-deleted-token-reviewed-less-than-10s-before", Proven),
    ("pod-made-again-same-name", Ends::Refused(Pod)),
    ("pod-terminating", Proven),
    ("right-audience", Proven),
    ("service-account-deleted", Ends::Refused(Refused)),
    ("service-account-deleted-11s-later", Ends::Refused(Refused)),
    ("service-account-deleted-token-reviewed-less-than-10s-before", Ends::Refused(Unbound)),
    ("service-account-made-again", Ends::Refused(Refused)),
    ("service-account-uid-mismatch", Ends::Refused(Refused)),
    ("three-dots", Unasked(Malformed)),
    ("two-audience-token", Proven),
    ("two-audience-token-both-asked", Foreign(Ok(()))),
    ("unknown-kid", Ends::Refused(Refused)),
    ("wrong-audience", Ends::Refused(Audience)),
    ("wrong-issuer", Ends::Refused(Refused)),
];

#[tokio::test]
async fn every_recorded_review_ends_as_the_table_says() {
    let mut files: Vec<String> = std::fs::read_dir(recordings())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_prefix("review.")?.strip_suffix(".json")?.to_owned()))
        .collect();
    files.sort();
    assert_eq!(files, TABLE.each_ref().map(|(name, _)| *name), "a recording without its row");
    for (name, ends) in TABLE {
        let mut exchange = Exchange::read(&recordings().join(format!("review.{name}.json")));
        let (token, audience) =
            (exchange.token().to_owned(), exchange.audience().unwrap_or("mesh-ca").to_owned());
        let cluster = Cluster::start_with(THEN, |config| config.audience.clone_from(&audience)).await;
        if matches!(ends, Unavailable) {
            // Recorded with a question of another kind; the answer is about who asks.
            exchange.request = serde_json::from_str(&review::question(&token, &audience)).unwrap();
        }
        let body = exchange.body.clone();
        cluster.api.replay(exchange);
        match ends {
            Proven => {
                let proven =
                    cluster.attest_for(&token, &audience).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
                assert_eq!(proven.account.to_string(), "ns/shop/sa/web", "{name}");
                assert_eq!(
                    proven.instance.to_string(),
                    "pod shop/web-1 (e240d312-29b2-42ce-a3b5-7c2da424cf7f) on node node1 of cluster main",
                    "{name}"
                );
            }
            Ends::Refused(expected) => {
                assert_eq!(reason(cluster.attest_for(&token, &audience).await), expected, "{name}");
                assert_eq!(cluster.api.reviews(), 1, "{name}: asked once, and with the audience");
            }
            Unasked(expected) => {
                assert_eq!(reason(cluster.attest_for(&token, &audience).await), expected, "{name}");
                assert_eq!(cluster.api.reviews(), 0, "{name}");
            }
            Unavailable => {
                assert_eq!(cluster.attest_for(&token, &audience).await, Err(Failure::Unavailable), "{name}");
            }
            Foreign(expected) => {
                let judged = review::judge(&body, &token, &audience).map(drop);
                assert_eq!(judged, expected.map_err(Unusable::Refused), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_pod_that_was_deleted_is_out_once_the_servers_memory_of_ten_seconds_is_over() {
    let cluster = Cluster::start_with(THEN, |config| config.audience = "mesh-ca".into()).await;
    for name in ["pod-deleted-token-reviewed-less-than-10s-before", "pod-deleted-11s-later"] {
        cluster.api.replay(Exchange::read(&recordings().join(format!("review.{name}.json"))));
    }
    let before = Exchange::read(&recordings().join("review.right-audience.json"));
    // The same token on both sides; what the server says changes, and nothing is remembered here.
    let first = cluster.attest_for(before.token(), "mesh-ca").await;
    assert_eq!(first.unwrap().instance.pod, "web-1");
    assert_eq!(reason(cluster.attest_for(before.token(), "mesh-ca").await), Refused);
    assert_eq!(cluster.api.reviews(), 2);
}

#[test]
fn no_part_of_a_good_answer_and_no_answer_with_a_byte_missing_names_somebody_else() {
    let exchange = Exchange::read(&recordings().join("review.right-audience.json"));
    let judge = |body: &[u8]| review::judge(body, exchange.token(), "mesh-ca");
    let good = judge(&exchange.body).unwrap();
    let end = exchange.body.iter().rposition(|byte| *byte == b'}').unwrap();
    for cut in 0..end {
        assert!(judge(&exchange.body[..cut]).is_err(), "{cut}");
    }
    for at in 0..exchange.body.len() {
        let mut without = exchange.body.to_vec();
        without.remove(at);
        if let Ok(account) = judge(&without) {
            // A letter of the uid or of a name may be missing; who is named is still spelt in the answer.
            let text = String::from_utf8(without).unwrap();
            assert!(text.contains(&account.pod_uid) && text.contains(&account.pod), "{at}");
            assert!(account == good || good.pod_uid.len() >= account.pod_uid.len(), "{at}");
        }
    }
}
