//! To which of our ports a redirected connection of a peer comes.
//!
//! Its original destination says what it is: an address and port at which the control plane says that something of ours is
//! served. Two services of the same pods may be served by the same port of them; then the caller's hello has to say which of
//! them is meant ([`crate::tls::for_these_ports`]), and by that one's policy it is judged. Who says nothing means both, and is
//! refused; a caller without the mesh has no hello, and is let in where all of them let it in.
//!
//! What was served at a place is remembered for a while: callers hear later than we that a pod is not to be called any more,
//! and what they send meanwhile is still for the same port. An address of ours of which nobody told us yet, as while a pod
//! starts, is asked about; where nobody knows it, a peer dials the port that callers of the service dial, if nobody says of
//! that service where it is served.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::state::{InboundPort, Snapshot, Wanted};
use crate::worker::Worker;

/// For how long a place is what it was.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Places of a pod: its addresses times the ports of its apps.
const MOST_PLACES: usize = 4_096;

/// Ports by the names of their service and of themselves.
type Names = Vec<(Arc<str>, Arc<str>)>;

/// What was served at places of ours. Only what the control plane told is noted, nothing that a stranger dials.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<SocketAddr, (Instant, Names)>>);

impl Places {
    fn note(&self, place: SocketAddr, ports: &[Arc<InboundPort>]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |names: &Names| {
            names.len() == ports.len()
                && names
                    .iter()
                    .zip(ports)
                    .all(|((service, name), port)| **service == *port.service && **name == *port.name)
        };
        if let Some((at, _)) = known.get_mut(&place).filter(|(_, names)| is_same(names)) {
            *at = Instant::now();
            return;
        }
        if known.len() >= MOST_PLACES {
            known.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        }
        if known.len() < MOST_PLACES {
            let names = ports.iter().map(|port| (port.service.clone(), port.name.clone())).collect();
            known.insert(place, (Instant::now(), names));
        }
    }

    fn before(&self, place: SocketAddr) -> Names {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&place).filter(|(at, _)| at.elapsed() < REMEMBERED);
        found.map(|(_, names)| names.clone()).unwrap_or_default()
    }
}

/// The ports of ours that may be meant by whoever dialled this. None: it is nothing of ours.
pub(super) async fn served_at<E>(
    worker: &Worker<E>,
    view: &mut Arc<Snapshot>,
    place: SocketAddr,
) -> Vec<Arc<InboundPort>> {
    let shared = &worker.shared;
    let mut found = here(&shared.places, view, place);
    if found.is_empty() && !is_told_of(view, place) {
        let ip = place.ip();
        let told = |endpoints: &crate::state::Endpoints| {
            let is_all = endpoints.is_settled(ip) || endpoints.refusal(&ip.to_string()).is_some();
            (is_all || !endpoints.served_at(place).is_empty()).then_some(())
        };
        shared.state.first_use(view, || Wanted::Address(ip), told).await;
        found = here(&shared.places, view, place);
    }
    found
}

fn here(places: &Places, view: &Snapshot, place: SocketAddr) -> Vec<Arc<InboundPort>> {
    let served = view.endpoints.served_at(place).iter();
    let found: Vec<_> =
        served.filter_map(|port| view.routes.inbound(&port.service, &port.name)).cloned().collect();
    if !found.is_empty() {
        places.note(place, &found);
        return found;
    }
    let before = places.before(place);
    let before = before.iter().filter_map(|(service, port)| view.routes.inbound(service, port));
    let found: Vec<_> = before.cloned().collect();
    if !found.is_empty() || is_told_of(view, place) {
        return found;
    }
    // A service of which it is said where it is served is not served here: another app of the same account may be.
    let by_number = view.routes.inbound_number(place.port());
    let by_number = by_number.filter(|port| !view.endpoints.is_served_somewhere(&port.service));
    by_number.cloned().into_iter().collect()
}

/// Whether the control plane says what of ours is served at this address: then nothing else is.
fn is_told_of(view: &Snapshot, place: SocketAddr) -> bool {
    view.routes.served().any(|service| view.endpoints.is_served_from(service, place.ip()))
}

/// Whether a caller without the mesh may come to this port, where it is taken for one of `first`.
pub(super) fn lets_in_plaintext(view: &Snapshot, port: &InboundPort, first: &InboundPort) -> bool {
    port.protocol == first.protocol && view.lets_in_plaintext(port, crate::pool::now()).is_ok()
}
