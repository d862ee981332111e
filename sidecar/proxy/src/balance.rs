//! Which endpoint: the less loaded of two chosen at random.
//!
//! The load is what this whole process has under way there, so that two workers do not both think an
//! endpoint idle; connects that fail weigh like many requests until one works again.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use crate::state::{Endpoint, ServicePort, monotonic};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
}

/// A quick random number (xorshift). Not for secrets.
pub(crate) fn random() -> u64 {
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        x
    })
}

/// A random number below `bound`, or 0.
pub(crate) fn below(bound: usize) -> usize {
    let bound = bound.max(1) as u64;
    usize::try_from(random() % bound).unwrap_or(0)
}

/// Picks an endpoint: not one of `tried`, and none that is left out for its failures, as long as there is another.
pub(crate) fn pick<'a>(port: &'a ServicePort, tried: &[u64]) -> Option<&'a Arc<Endpoint>> {
    let endpoints = &port.endpoints;
    let now = if port.traffic.outlier.is_some() { monotonic() } else { 0 };
    if tried.is_empty() {
        let picked = match &endpoints[..] {
            [] => return None,
            [one] => return Some(one),
            _ => {
                let first = below(endpoints.len());
                // Any of the others, each as likely.
                let second = (first + 1 + below(endpoints.len() - 1)) % endpoints.len();
                lighter(endpoints.get(first), endpoints.get(second))
            }
        };
        // Nobody is ever left out where no policy says so, and seldom where one does.
        if now == 0 || !picked?.is_out(now) {
            return picked;
        }
    }
    let untried = || endpoints.iter().filter(|endpoint| !tried.contains(&endpoint.id));
    let mut left: Vec<_> = untried().filter(|endpoint| !endpoint.is_out(now)).collect();
    if left.is_empty() {
        left = untried().collect();
    }
    let first = below(left.len());
    let second = if left.len() > 1 { (first + 1 + below(left.len() - 1)) % left.len() } else { first };
    lighter(left.get(first).copied(), left.get(second).copied())
}

fn lighter<'a>(a: Option<&'a Arc<Endpoint>>, b: Option<&'a Arc<Endpoint>>) -> Option<&'a Arc<Endpoint>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.load() < a.load() { b } else { a }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{EndpointSpec, Endpoints, PortSpec, Protocol, ServiceSpec, Timeouts};

    fn spec(count: u8) -> ServiceSpec {
        let endpoint = |last| EndpointSpec {
            address: [127, 0, 0, last].into(),
            ports: [("main".to_owned(), 80)].into(),
            identity: None,
            behind: None,
        };
        ServiceSpec {
            name: "orders.shop".into(),
            ports: vec![PortSpec {
                name: "main".into(),
                port: 80,
                protocol: Protocol::Http1,
                timeouts: Timeouts::default(),
                requests_only: false,
            }],
            identities: vec![signet_identity::testing::TestCa::new("demo.signet").id("ns/shop/sa/orders")],
            endpoints: (1..=count).map(endpoint).collect(),
            ..ServiceSpec::default()
        }
    }

    fn port(count: u8) -> Arc<ServicePort> {
        let spec = spec(count);
        let known = Endpoints::default().apply([spec.clone()], [] as [&str; 0]);
        let before = known.service("orders.shop").unwrap().ports[0].endpoints.clone();
        let _busy = before[0].begin();
        // An update of the service keeps the endpoints that stay, and what is under way there.
        let known = known.apply([spec], [] as [&str; 0]);
        let port = known.service("orders.shop").unwrap().ports[0].clone();
        let after = &port.endpoints;
        assert!(before.iter().zip(after).all(|(a, b)| Arc::ptr_eq(a, b)));
        assert_eq!(after[0].in_flight(), 1);
        port
    }

    #[test]
    fn the_busiest_of_many_is_never_picked_and_the_rest_evenly() {
        let port = port(4);
        let endpoints = &port.endpoints;
        let _busy: Vec<_> = (0..10).map(|_| endpoints[0].begin()).collect();
        let mut picked = [0u32; 4];
        for _ in 0..3000 {
            let one = pick(&port, &[]).unwrap();
            picked[endpoints.iter().position(|e| Arc::ptr_eq(e, one)).unwrap()] += 1;
        }
        assert_eq!(picked[0], 0);
        assert!(picked[1..].iter().all(|count| (800..1200).contains(count)), "{picked:?}");
    }

    #[test]
    fn one_that_refused_is_not_tried_again_and_weighs_until_it_works() {
        let port = port(2);
        let endpoints = &port.endpoints;
        let other = pick(&port, &[endpoints[0].id]).unwrap();
        assert!(Arc::ptr_eq(other, &endpoints[1]));
        assert!(pick(&port, &[endpoints[0].id, endpoints[1].id]).is_none());
        endpoints[0].connected(false);
        assert!((0..50).all(|_| Arc::ptr_eq(pick(&port, &[]).unwrap(), &endpoints[1])));
        endpoints[0].connected(true);
        assert!((0..200).any(|_| Arc::ptr_eq(pick(&port, &[]).unwrap(), &endpoints[0])));
    }

    /// A port of so many endpoints that are left out after one failure, all of them if need be.
    fn breaking(count: u8) -> Arc<ServicePort> {
        let json = r#"{"apiVersion":"signet.mesh/v1alpha1","kind":"TrafficPolicy","metadata":{"namespace":"shop","name":"orders"},
            "spec":{"target":{"service":"orders"},"outlierDetection":
            {"consecutiveFailures":1,"baseEjection":"1h","maxEjection":"2h","maxEjectedPercent":100}}}"#;
        let traffic = vec![signet_model::TrafficPolicy::from_json(json).unwrap().spec];
        let known = Endpoints::default().apply([ServiceSpec { traffic, ..spec(count) }], [] as [&str; 0]);
        known.service("orders.shop").unwrap().ports[0].clone()
    }

    proptest::proptest! {
        #[test]
        fn a_pick_is_untried_in_and_never_the_heaviest_if_it_need_not_be(
            endpoints in proptest::collection::vec((0usize..6, proptest::bool::ANY, proptest::bool::ANY, 0u32..3), 0..6),
        ) {
            let port = breaking(u8::try_from(endpoints.len()).unwrap());
            let policy = port.traffic.outlier.clone().unwrap();
            let mut busy = Vec::new();
            let mut tried = Vec::new();
            for (endpoint, (load, is_out, is_tried, unreached)) in port.endpoints.iter().zip(&endpoints) {
                busy.extend((0..*load).map(|_| endpoint.begin()));
                if *is_out {
                    proptest::prop_assert!(endpoint.judged(false, &policy, &port, monotonic()));
                }
                if *is_tried {
                    tried.push(endpoint.id);
                }
                (0..*unreached).for_each(|_| endpoint.connected(false));
            }
            let now = monotonic();
            let untried: Vec<_> = port.endpoints.iter().filter(|it| !tried.contains(&it.id)).collect();
            let is_in: Vec<_> = untried.iter().copied().filter(|it| !it.is_out(now)).collect();
            let eligible = if is_in.is_empty() { untried } else { is_in };
            let heaviest = eligible.iter().map(|it| it.load()).max();
            let lightest = eligible.iter().map(|it| it.load()).min();
            for _ in 0..40 {
                let Some(picked) = pick(&port, &tried) else {
                    proptest::prop_assert!(eligible.is_empty());
                    break;
                };
                proptest::prop_assert!(eligible.iter().any(|it| Arc::ptr_eq(it, picked)));
                // Of two by chance the lighter one: of two in all always the lightest, and the one heaviest of more never.
                let loads = eligible.iter().filter(|it| Some(it.load()) == heaviest).count();
                if eligible.len() > 1 && loads == 1 && tried.len() + eligible.len() == port.endpoints.len() {
                    proptest::prop_assert!(Some(picked.load()) != heaviest);
                }
                if eligible.len() == 2 && port.endpoints.len() == 2 {
                    proptest::prop_assert_eq!(Some(picked.load()), lightest);
                }
            }
        }
    }
}
