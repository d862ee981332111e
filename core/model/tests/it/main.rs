//! What a registry may say, and what is wrong with others. One program, since each costs a build of its own.

mod docs;
mod east_west;
mod external;
mod federated;
mod folder;
mod grants;
mod guard_rails;
mod lenient;
mod original;
mod processes;
mod providers;
mod registrations;
mod registry;
mod routes;
mod streams;
mod texts;
mod token_exchanges;
mod when;
