//! Services behind which the same app is, and policies that differ: whoever may call one of them calls the app.

use std::collections::{BTreeMap, BTreeSet};

use signet_model::{ObjectName, Registry};

/// As many as anybody reads.
const MOST: usize = 50;

/// In words, for each two.
pub(super) fn words(registry: &Registry) -> Vec<String> {
    let mut places: BTreeMap<_, Vec<&ObjectName>> = BTreeMap::new();
    for service in registry.services() {
        for endpoint in service.spec.endpoints.iter().filter(|it| it.through_gateway.is_none()) {
            for number in endpoint.ports.values() {
                let here = places.entry((endpoint.address, *number)).or_default();
                if here.last() != Some(&&service.name) {
                    here.push(&service.name);
                }
            }
        }
    }
    let pairs: BTreeSet<(&ObjectName, &ObjectName)> = places
        .values()
        .filter_map(|here| here.split_first())
        .flat_map(|(first, others)| others.iter().map(|other| (*first, *other)))
        .collect();
    let policies = |service: &ObjectName| -> BTreeSet<String> {
        registry.policies_for(service).map(|policy| policy.name.to_string()).collect()
    };
    let differ = pairs.into_iter().filter(|(one, two)| policies(one) != policies(two));
    let say = |(one, two): (&ObjectName, &ObjectName)| {
        format!(
            "Services `{one}` and `{two}` lead to the same port of the same pods and have different policies: whoever may call \
             one of them reaches the app"
        )
    };
    differ.take(MOST).map(say).collect()
}
