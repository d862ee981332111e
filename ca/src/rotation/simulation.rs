//! The machine explored by generated interleavings: replicas that act in any order and die between any two steps,
//! sidecars that hear of things late or never, clocks that pass. Whatever happens, two live sidecars that have
//! acknowledged what they were told can verify each other.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::machine::*;

const MINUTE: i64 = 60;
const SVID: i64 = 60 * MINUTE;
const ROOT_LIFE: i64 = 40 * 24 * 60 * MINUTE;
const ISSUER_LIFE: i64 = 7 * 24 * 60 * MINUTE;
const REPLICAS: [&str; 2] = ["a", "b"];

#[derive(Debug, Clone)]
struct Sidecar {
    /// Roots that it believes, and the bundle's number.
    roots: BTreeSet<String>,
    sequence: u64,
    acked: u64,
    /// Root and issuer of its certificate, and its end.
    root: String,
    issuer: String,
    until: i64,
    given_up: Option<u64>,
    cut_off: bool,
}

#[derive(Debug, Clone)]
enum Act {
    Pass(i64),
    /// A replica performs so many steps of those that are due, then may die: the next act is another's.
    Steps {
        replica: usize,
        most: usize,
    },
    /// A sidecar hears of the bundle, and its word reaches the store or is lost on the way.
    Hear {
        sidecar: usize,
        word_arrives: bool,
    },
    Renew {
        sidecar: usize,
        replica: usize,
    },
    CutOff {
        sidecar: usize,
        cut: bool,
    },
    Rotate,
    Taint {
        which: usize,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (1i64..40).prop_map(|minutes| Act::Pass(minutes * MINUTE)),
        1 => (1i64..20).prop_map(|days| Act::Pass(days * 24 * 60 * MINUTE)),
        6 => (0usize..2, 1usize..4).prop_map(|(replica, most)| Act::Steps { replica, most }),
        6 => (0usize..5, prop::bool::weighted(0.8)).prop_map(|(sidecar, word_arrives)| Act::Hear { sidecar, word_arrives }),
        6 => (0usize..5, 0usize..2).prop_map(|(sidecar, replica)| Act::Renew { sidecar, replica }),
        1 => (0usize..5, any::<bool>()).prop_map(|(sidecar, cut)| Act::CutOff { sidecar, cut }),
        1 => Just(Act::Rotate),
        1 => (0usize..4).prop_map(|which| Act::Taint { which }),
    ];
    prop::collection::vec(act, 1..200)
}

struct World {
    now: i64,
    slots: Vec<Slot>,
    bundle: u64,
    made: u64,
    sidecars: Vec<Sidecar>,
    config: RotationConfig,
}

impl World {
    fn new() -> World {
        let mut world = World {
            now: 1_800_000_000,
            slots: Vec::new(),
            bundle: 0,
            made: 0,
            sidecars: Vec::new(),
            config: RotationConfig::default(),
        };
        for replica in REPLICAS {
            world.steps(replica, 64);
        }
        world.steps(REPLICAS[0], 64);
        world.steps(REPLICAS[1], 64);
        let bundle = world.bundle;
        let (root, issuer) = world.signs("a").expect("founded");
        for _ in 0..5 {
            world.sidecars.push(Sidecar {
                roots: world.believed(),
                sequence: bundle,
                acked: bundle,
                root: root.clone(),
                issuer: issuer.clone(),
                until: world.now + SVID,
                given_up: None,
                cut_off: false,
            });
        }
        world
    }

    fn believed(&self) -> BTreeSet<String> {
        let believed = |slot: &&Slot| slot.kind == Kind::Root && slot.phase.is_believed();
        self.slots.iter().filter(believed).map(|slot| slot.id.clone()).collect()
    }

    fn signs(&self, replica: &str) -> Option<(String, String)> {
        let issuer = self.slots.iter().find(|slot| {
            slot.kind == Kind::Issuer
                && slot.owner == replica
                && slot.phase == Phase::Active
                && slot.not_after > self.now
        })?;
        Some((issuer.parent.clone()?, issuer.id.clone()))
    }

    fn live(&self) -> impl Iterator<Item = &Sidecar> {
        self.sidecars.iter().filter(|sidecar| sidecar.until >= self.now)
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts {
            now: self.now,
            acked: self.live().filter(|s| s.given_up.is_none()).map(|s| s.acked).min(),
            replicas: REPLICAS.iter().map(|name| (*name).to_owned()).collect(),
            last_end: BTreeMap::new(),
            holders: BTreeMap::new(),
            roots: Roots::Made,
        };
        for sidecar in &self.sidecars {
            for id in [&sidecar.root, &sidecar.issuer] {
                let end = facts.last_end.entry(id.clone()).or_insert(sidecar.until);
                *end = sidecar.until.max(*end);
                if sidecar.until >= self.now {
                    *facts.holders.entry(id.clone()).or_default() += 1;
                }
            }
        }
        facts
    }

    fn steps(&mut self, replica: &str, most: usize) {
        for _ in 0..most {
            // Either replica may hold the lease, and it may change hands between any two steps.
            let actor = Actor { leads: true, replica };
            let Some(step) = next(&self.slots, &self.facts(), &self.config, actor) else { return };
            self.perform(step, replica);
        }
    }

    fn slot(&mut self, id: &str) -> &mut Slot {
        self.slots.iter_mut().find(|slot| slot.id == id).expect("in the journal")
    }

    fn enter(&mut self, id: &str, phase: Phase) {
        let now = self.now;
        let slot = self.slot(id);
        slot.phase = phase;
        slot.since = now;
    }

    fn perform(&mut self, step: Step, replica: &str) {
        match step {
            Step::Make { kind, hurry } => {
                self.made += 1;
                let life = match kind {
                    Kind::Root => ROOT_LIFE,
                    Kind::Issuer => ISSUER_LIFE,
                    Kind::Token | Kind::Jwt => 30 * 24 * 60 * MINUTE,
                };
                self.slots.push(Slot {
                    id: format!("{}{}", kind.as_str(), self.made),
                    kind,
                    owner: if kind == Kind::Root { String::new() } else { replica.to_owned() },
                    phase: if kind == Kind::Issuer { Phase::Requested } else { Phase::Prepared },
                    not_before: self.now,
                    not_after: self.now + life,
                    sequence: 0,
                    since: self.now,
                    parent: None,
                    tainted_at: None,
                    hurry,
                });
            }
            Step::SignIssuer { id, root } => {
                let end = self.slot(&root).not_after;
                let now = self.now;
                let slot = self.slot(&id);
                slot.parent = Some(root);
                slot.not_after = (now + ISSUER_LIFE).min(end);
                self.enter(&id, Phase::Prepared);
            }
            Step::Publish { id } => {
                self.bundle += 1;
                self.slot(&id).sequence = self.bundle;
                self.enter(&id, Phase::Published);
            }
            Step::GiveUp { sequence } => {
                let now = self.now;
                for sidecar in self.sidecars.iter_mut().filter(|s| s.until >= now && s.acked < sequence) {
                    sidecar.given_up.get_or_insert(sequence);
                }
            }
            Step::Acknowledge { id } => self.enter(&id, Phase::Acknowledged),
            Step::Activate { id, instead_of } => {
                self.enter(&id, Phase::Active);
                if let Some(old) = instead_of {
                    self.enter(&old, Phase::Draining);
                }
            }
            Step::Retire { id } => self.enter(&id, Phase::Draining),
            Step::Remove { id } => {
                if self.slot(&id).phase.is_believed() {
                    self.bundle += 1;
                }
                self.enter(&id, Phase::Removed);
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Pass(seconds) => self.now += seconds,
            Act::Steps { replica, most } => self.steps(REPLICAS[replica], most),
            Act::Hear { sidecar, word_arrives } => {
                let (roots, bundle, now) = (self.believed(), self.bundle, self.now);
                let sidecar = &mut self.sidecars[sidecar];
                // A stream ends with the certificate that it was opened with.
                if sidecar.cut_off || sidecar.until < now {
                    return;
                }
                sidecar.roots = roots;
                sidecar.sequence = bundle;
                if word_arrives {
                    sidecar.acked = bundle;
                    sidecar.given_up = sidecar.given_up.filter(|missed| *missed > bundle);
                }
            }
            Act::Renew { sidecar, replica } => {
                let signs = self.signs(REPLICAS[replica]);
                let (now, roots, bundle) = (self.now, self.believed(), self.bundle);
                let sidecar = &mut self.sidecars[sidecar];
                let (Some((root, issuer)), false) = (signs, sidecar.cut_off) else { return };
                if sidecar.until >= now && sidecar.given_up.is_some() {
                    return;
                }
                if sidecar.until < now {
                    // It joins anew, and hears of the bundle with its certificate.
                    *sidecar = Sidecar { acked: bundle, given_up: None, ..sidecar.clone() };
                }
                // The bundle comes with the certificate.
                sidecar.roots = roots;
                sidecar.sequence = bundle;
                (sidecar.root, sidecar.issuer, sidecar.until) = (root, issuer, now + SVID);
            }
            Act::CutOff { sidecar, cut } => self.sidecars[sidecar].cut_off = cut,
            Act::Rotate => {
                let next = self.slots.iter_mut().find(|slot| slot.kind == Kind::Root && slot.is_next());
                match next {
                    Some(next) => next.hurry = next.hurry.max(Hurry::Acknowledged),
                    None => self.perform(Step::Make { kind: Kind::Root, hurry: Hurry::Acknowledged }, "a"),
                }
            }
            Act::Taint { which } => {
                let now = self.now;
                let mut live: Vec<&mut Slot> =
                    self.slots.iter_mut().filter(|slot| slot.phase != Phase::Removed).collect();
                let count = live.len();
                if let Some(slot) = live.get_mut(which % count.max(1)) {
                    slot.tainted_at.get_or_insert(now);
                }
            }
        }
    }

    fn is_tainted(&self, id: &str) -> bool {
        self.slots.iter().any(|slot| slot.id == id && slot.tainted_at.is_some())
    }

    fn check(&self) {
        let roots: Vec<&Slot> = self.slots.iter().filter(|slot| slot.kind == Kind::Root).collect();
        assert_eq!(roots.iter().filter(|slot| slot.phase == Phase::Active).count(), 1, "one root signs");
        assert!(roots.iter().filter(|slot| slot.is_next()).count() <= 1, "one successor at a time");
        for slot in &self.slots {
            let Some(parent) = &slot.parent else { continue };
            let parent = self.slots.iter().find(|other| other.id == *parent).expect("a parent");
            assert!(slot.not_after <= parent.not_after, "nothing past its parent");
            if slot.phase == Phase::Active && slot.not_after > self.now {
                assert!(parent.phase.is_believed(), "an issuer under a root that nobody believes");
            }
        }
        let peers: Vec<&Sidecar> = self
            .live()
            // Given up on: it was silent past the deadline. Under a tainted one it was to renew at once.
            .filter(|s| s.given_up.is_none() && !self.is_tainted(&s.root))
            .collect();
        for one in &peers {
            for other in &peers {
                assert!(
                    other.roots.contains(&one.root),
                    "a certificate under {} is not believed by {other:?}; journal: {:#?}",
                    one.root,
                    self.slots
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn live_sidecars_that_acknowledged_can_always_verify_each_other(acts in acts()) {
        let mut world = World::new();
        world.check();
        for act in acts {
            world.act(act);
            world.check();
        }
    }

    /// Whatever happened, in a mesh that is left in peace every rotation comes to its end.
    #[test]
    fn a_mesh_left_in_peace_comes_to_rest(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        for sidecar in 0..5 {
            world.act(Act::CutOff { sidecar, cut: false });
        }
        for _ in 0..60 {
            // A mesh whose root has ended waits for an operator.
            let ended = |slot: &Slot| slot.kind == Kind::Root && slot.phase == Phase::Active && slot.not_after < world.now;
            if world.slots.iter().any(ended) {
                world.act(Act::Rotate);
            }
            for replica in [0, 1] {
                world.act(Act::Steps { replica, most: 64 });
            }
            for sidecar in 0..5 {
                world.act(Act::Hear { sidecar, word_arrives: true });
                world.act(Act::Renew { sidecar, replica: sidecar % 2 });
            }
            world.act(Act::Pass(20 * MINUTE));
            world.check();
        }
        let tainted = world.slots.iter().any(|slot| slot.tainted_at.is_some() && slot.phase != Phase::Removed);
        assert!(!tainted, "what was tainted is gone: {:#?}", world.slots);
        let old = |slot: &&Slot| {
            slot.kind == Kind::Root && slot.phase == Phase::Draining && slot.since < world.now - 2 * SVID
        };
        assert!(!world.slots.iter().any(|slot| old(&slot)), "no root drains for ever: {:#?}", world.slots);
    }
}

#[test]
fn an_ended_root_is_not_replaced_without_an_operators_word() {
    let mut world = World::new();
    world.now += 2 * ROOT_LIFE;
    for replica in REPLICAS {
        world.steps(replica, 64);
    }
    assert!(world.slots.iter().filter(|slot| slot.kind == Kind::Root).count() == 1);
    world.act(Act::Rotate);
    for replica in REPLICAS.iter().chain(&REPLICAS) {
        world.steps(replica, 64);
    }
    assert!(world.signs("a").is_some() && world.signs("b").is_some());
}
