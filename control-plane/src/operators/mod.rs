//! Operators are people: who they are, what they may do, and that it is written down with their name.
//!
//! A person comes by the Unix socket, where the kernel says the uid, or logs in with a provider ([`login`]) and
//! then comes by the mesh door with a certificate of class `operator`. Either way each call passes one
//! [`guard`]: it finds out who calls ([`who`]), looks the call up in the one table of calls ([`table`]), asks
//! whether the caller's roles ([`roles`]) suffice for these very arguments, and where configuration wants a second
//! person, lets the call wait for one ([`approvals`]). What came of it is one record ([`audit`]).
//!
//! A call that is not in the table is refused, whatever service it belongs to.

pub mod approvals;
pub mod audit;
pub mod config;
pub mod guard;
pub mod login;
pub mod roles;
pub mod table;
pub mod who;
