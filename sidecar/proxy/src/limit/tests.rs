use super::*;
use bytes::BytesMut;
use signet_wire::h1::{RequestHead, RequestParser};

const SECOND: u64 = 1_000_000_000;

fn policy(limits: &str) -> TrafficPolicySpec {
    let json = format!(
        r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"TrafficPolicy","metadata":{{"namespace":"shop","name":"orders"}},
            "spec":{{"target":{{"service":"orders"}},"rateLimits":{limits}}}}}"#
    );
    signet_model::TrafficPolicy::from_json(&json).unwrap().spec
}

fn get(path: &str) -> RequestHead {
    let mut input = BytesMut::from(format!("GET {path} HTTP/1.1\r\nhost: orders\r\n\r\n").as_bytes());
    RequestParser::new(Default::default()).parse(&mut input).unwrap().unwrap()
}

fn caller<'a>(workload: &'a str, user: Option<&'a str>) -> Caller<'a> {
    Caller { workload, user }
}

#[test]
fn a_burst_passes_at_once_and_then_one_for_each_interval() {
    let limits = Limits::new(&[policy(r#"[{"name":"all","requests":10,"per":"1s","burst":5}]"#)]).unwrap();
    let (head, web) = (get("/"), caller("web", None));
    let take = |now| limits.take("http", web, RequestView::H1(&head), now);
    for left in (0..5).rev() {
        assert_eq!(take(SECOND).unwrap().unwrap().remaining, left);
    }
    let exceeded = take(SECOND).unwrap_err();
    assert_eq!(exceeded.retry_after, Duration::from_millis(100));
    assert_eq!(exceeded.standing.remaining, 0);
    assert_eq!(exceeded.standing.headers(), ("\"all\";r=0;t=1".into(), "\"all\";q=10;w=1".into()));
    // What was refused cost nothing: exactly when it was told to, the next one passes.
    assert!(take(SECOND + SECOND / 10).is_ok());
    assert!(take(SECOND + SECOND / 10).is_err());
    // Over ten seconds it is ten a second, however they come.
    let passed = (0..10_000u64).filter(|ms| take(10 * SECOND + ms * SECOND / 1000).is_ok()).count();
    assert!((100..=105).contains(&passed), "{passed}");
}

#[test]
fn callers_are_told_apart_by_the_key_and_by_nothing_else() {
    let limits =
        Limits::new(&[policy(r#"[{"name":"each","key":["workload","user"],"requests":1,"per":"1h"}]"#)])
            .unwrap();
    let head = get("/");
    let take = |who| limits.take("http", who, RequestView::H1(&head), SECOND).is_ok();
    assert!(take(caller("web", Some("ada"))));
    assert!(!take(caller("web", Some("ada"))));
    assert!(take(caller("web", Some("bob"))));
    assert!(take(caller("web", None)) && !take(caller("web", None)));
    assert!(take(caller("batch", Some("ada"))));
}

#[test]
fn a_request_takes_from_every_limit_that_speaks_of_it_or_from_none() {
    let limits = Limits::new(&[policy(
        r#"[{"name":"all","requests":3,"per":"1h"},
            {"name":"reports","to":{"paths":["/reports/{id}"]},"requests":1,"per":"1h"}]"#,
    )])
    .unwrap();
    let (report, other) = (get("/reports/7"), get("/"));
    let take = |head| limits.take("http", caller("web", None), RequestView::H1(head), SECOND);
    assert_eq!(take(&report).unwrap().unwrap().name, "reports", "the one that leaves least is told");
    assert_eq!(take(&report).unwrap_err().standing.name, "reports");
    assert!(
        take(&other).is_ok() && take(&other).is_ok(),
        "the refused one took nothing from the other limit"
    );
    assert_eq!(take(&other).unwrap_err().standing.name, "all");
}

#[test]
fn a_ports_own_limits_stand_instead_of_the_services() {
    let mut own = policy(r#"[{"name":"own","requests":2,"per":"1h"}]"#);
    own.target.port = Some("admin".parse().unwrap());
    let limits = Limits::new(&[policy(r#"[{"name":"all","requests":1,"per":"1h"}]"#), own]).unwrap();
    let head = get("/");
    let take = |port| limits.take(port, caller("web", None), RequestView::H1(&head), SECOND).is_ok();
    assert!(take("http") && !take("http"));
    assert!(take("admin") && take("admin") && !take("admin"));
}

#[test]
fn a_flood_of_callers_has_bounded_memory_and_no_more_than_the_limit() {
    let limits =
        Limits::new(&[policy(r#"[{"name":"each","key":["user"],"requests":1,"per":"1h"}]"#)]).unwrap();
    let head = get("/");
    let most = SHARDS * SHARD_BOUND;
    let mut passed = 0;
    for user in 0..2 * most {
        let user = user.to_string();
        let who = caller("web", Some(&user));
        passed += usize::from(limits.take("http", who, RequestView::H1(&head), SECOND).is_ok());
    }
    let held: usize = limits.counts.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
    assert!(held <= most + 1, "{held}");
    assert!(passed <= 2 * most);
    // When all is paid back, there is room again.
    let late = 3 * 3600 * SECOND;
    assert!(limits.take("http", caller("web", Some("new")), RequestView::H1(&head), late).is_ok());
}

/// A bucket of tokens, in nanoseconds: a nanosecond fills it by one, a request takes what one costs.
struct Bucket {
    interval: u128,
    size: u128,
    level: u128,
    seen: u64,
}

impl Bucket {
    fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let interval = (per.as_nanos() / u128::from(requests)).max(1);
        let size = interval * u128::from(burst);
        Bucket { interval, size, level: size, seen: 0 }
    }

    fn fill(&mut self, now: u64) {
        self.level = (self.level + u128::from(now - self.seen)).min(self.size);
        self.seen = now;
    }

    /// What is left after it, or how long to wait.
    fn take(&mut self, now: u64) -> Result<u64, Duration> {
        self.fill(now);
        if self.level < self.interval {
            return Err(Duration::from_nanos(u64::try_from(self.interval - self.level).unwrap()));
        }
        self.level -= self.interval;
        Ok(u64::try_from(self.level / self.interval).unwrap())
    }
}

proptest::proptest! {
    #[test]
    fn a_limit_lets_pass_what_a_bucket_of_tokens_lets_pass(
        requests in 1u32..200,
        per_ms in proptest::prop_oneof![1u64..5_000, 1u64..100_000_000],
        burst in proptest::option::of(1u32..200),
        steps in proptest::collection::vec((0usize..3, 0u64..100, 0u64..=2), 1..300),
    ) {
        let json = match burst {
            Some(burst) => format!(
                r#"[{{"name":"each","key":["workload"],"requests":{requests},"per":"{per_ms}ms","burst":{burst}}}]"#
            ),
            None => format!(r#"[{{"name":"each","key":["workload"],"requests":{requests},"per":"{per_ms}ms"}}]"#),
        };
        let limits = Limits::new(&[policy(&json)]).unwrap();
        let head = get("/");
        let per = Duration::from_millis(per_ms);
        let mut buckets = [(); 3].map(|()| Bucket::new(requests, per, burst.unwrap_or(requests)));
        let interval = u64::try_from(buckets[0].interval).unwrap();
        let mut now = SECOND;
        for (who, part, intervals) in steps {
            // Waits of about an interval are where the two could differ.
            now += interval * intervals + interval * part / 100;
            let name = ["web", "batch", "edge"][who];
            let taken = limits.take("http", caller(name, None), RequestView::H1(&head), now);
            match (taken, buckets[who].take(now)) {
                (Ok(standing), Ok(left)) => proptest::prop_assert_eq!(standing.unwrap().remaining, left),
                (Err(exceeded), Err(wait)) => {
                    proptest::prop_assert_eq!(exceeded.retry_after, wait);
                    // What was refused cost nothing, and when it is told to come it passes.
                    now += u64::try_from(wait.as_nanos()).unwrap();
                    let again = limits.take("http", caller(name, None), RequestView::H1(&head), now);
                    proptest::prop_assert!(again.is_ok() && buckets[who].take(now).is_ok());
                }
                (limit, bucket) => proptest::prop_assert!(false, "{:?}, but {:?}", limit, bucket),
            }
        }
    }
}
