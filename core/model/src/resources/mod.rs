//! The kinds, one file each: its shape, and what a valid one of it cannot contradict.

pub(crate) mod east_west;
pub(crate) mod exchange;
pub(crate) mod external;
pub(crate) mod federated;
pub(crate) mod gateway;
pub(crate) mod guard_rail;
pub(crate) mod issuer;
pub(crate) mod listener;
pub(crate) mod mesh;
pub(crate) mod policy;
pub(crate) mod process;
pub(crate) mod provider;
pub(crate) mod registration;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod traffic;
pub(crate) mod workload;

use crate::error::Problem;
use crate::{Label, Port};

/// For fields that are left out of canonical JSON when they say what absence says.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reports each item that stands in `items` a second time, by its index.
pub(crate) fn twice<T: PartialEq>(items: &[T]) -> impl Iterator<Item = (usize, &T)> {
    items.iter().enumerate().filter(|(index, item)| items.iter().take(*index).any(|earlier| earlier == *item))
}

/// Reports ports whose name or number another one has.
pub(crate) fn each_port_once<'a>(
    ports: impl Iterator<Item = (&'a Label, Port)>,
    problems: &mut Vec<Problem>,
) {
    let (names, numbers): (Vec<_>, Vec<_>) = ports.unzip();
    for (index, name) in twice(&names) {
        problems.push(Problem::new(
            format!("spec.ports[{index}].name"),
            format!("expected a name of its own for each port, got `{name}` twice"),
        ));
    }
    for (index, number) in twice(&numbers) {
        problems.push(Problem::new(
            format!("spec.ports[{index}].port"),
            format!("expected each port once, got {number} twice"),
        ));
    }
}
