//! The kinds, one file each: its shape, and what a valid one of it cannot contradict.

pub(crate) mod east_west;
pub(crate) mod external;
pub(crate) mod federated;
pub(crate) mod gateway;
pub(crate) mod issuer;
pub(crate) mod mesh;
pub(crate) mod policy;
pub(crate) mod process;
pub(crate) mod registration;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod traffic;
pub(crate) mod workload;

/// For fields that are left out of canonical JSON when they say what absence says.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reports each item that stands in `items` a second time, by its index.
pub(crate) fn twice<T: PartialEq>(items: &[T]) -> impl Iterator<Item = (usize, &T)> {
    items.iter().enumerate().filter(|(index, item)| items.iter().take(*index).any(|earlier| earlier == *item))
}
