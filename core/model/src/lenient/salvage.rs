//! A Gateway of which single entries cannot be read: each of those leads nowhere, and the others are what they are.
//!
//! Only where it is known what the entry is for, its hosts and its path: otherwise what it is for could go by a less
//! specific route, perhaps one that asks for no credentials. Then nothing of the object is taken.

use serde_json::{Value, json};

use super::trim::{NOWHERE, index};
use crate::error::Problem;
use crate::{Label, Resource};

const ROUTES: &str = "spec.routes[";
const PASSED_ON: &str = "spec.eastWest.services[";

/// Reads a resource. What is wrong with single entries that others can do without comes beside what was read.
pub fn read_entries(document: Value) -> (Result<Resource, Vec<Problem>>, Vec<Problem>) {
    let (mut document, mut flaws, mut nowhere) = (document, Vec::new(), Vec::new());
    // Each round takes at least one entry, so that it ends.
    loop {
        let problems = match Resource::from_document(document.clone()) {
            Ok(resource) => return (Ok(resource), flaws),
            Err(problems) => problems,
        };
        let whole = |flaws: Vec<Problem>, problems: Vec<Problem>| {
            (Err(flaws.into_iter().chain(problems).collect()), Vec::new())
        };
        if document.get("kind").and_then(Value::as_str) != Some("Gateway") {
            return whole(flaws, problems);
        }
        let mut routes: Vec<usize> = Vec::new();
        let mut passed_on = None;
        for problem in &problems {
            match (index(&problem.field, ROUTES), index(&problem.field, PASSED_ON)) {
                // One that leads nowhere already is for something that nobody knows.
                (Some(at), _) if !nowhere.contains(&at) => routes.push(at),
                (None, Some(at)) => passed_on = Some(at),
                _ => return whole(flaws, problems),
            }
        }
        routes.sort_unstable();
        routes.dedup();
        let all = routes.iter().all(|at| lead_nowhere(&mut document, *at));
        // Numbers change when one goes: the others are found in the next round.
        let gone = passed_on.is_none_or(|at| leave_out(&mut document, at));
        if !all || !gone || (routes.is_empty() && passed_on.is_none()) {
            return whole(flaws, problems);
        }
        nowhere.extend(routes);
        for problem in problems {
            if !flaws.contains(&problem) {
                flaws.push(problem);
            }
        }
    }
}

/// The routes that such problems are about.
pub(super) fn routes_of(flaws: &[Problem]) -> impl Iterator<Item = usize> {
    flaws.iter().filter_map(|problem| index(&problem.field, ROUTES))
}

fn lead_nowhere(document: &mut Value, at: usize) -> bool {
    let namespace = document.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
    let (Some(namespace), Some(route)) = (namespace, document.pointer_mut(&format!("/spec/routes/{at}")))
    else {
        return false;
    };
    let (Some(hosts), Some(path)) = (route.get("hosts").cloned(), route.get("pathPrefix").cloned()) else {
        return false;
    };
    let name = route.get("name").and_then(Value::as_str).filter(|name| name.parse::<Label>().is_ok());
    let name = name.map_or_else(|| format!("refused-{at}"), str::to_owned);
    *route = json!({
        "name": name, "hosts": hosts, "pathPrefix": path, "service": format!("{NOWHERE}.{namespace}"),
        "port": "refused", "auth": {"anonymous": true},
    });
    true
}

fn leave_out(document: &mut Value, at: usize) -> bool {
    let listed = document.pointer_mut("/spec/eastWest/services").and_then(Value::as_array_mut);
    listed.filter(|listed| at < listed.len()).map(|listed| listed.remove(at)).is_some()
}
