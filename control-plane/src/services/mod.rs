//! What stands behind each door: [`bootstrap`] for strangers, [`identity`], [`exchange`] and
//! [`crate::delivery::stream`] for peers, [`operator`], [`people`], [`rotation`], [`roots`], [`recovery`], [`federation`] and `audit` for operators.

mod audit;
pub mod bootstrap;
pub(crate) mod convert;
pub mod exchange;
pub mod federation;
pub mod identity;
pub mod operator;
pub mod people;
pub mod process;
pub mod recovery;
pub mod roots;
pub mod rotation;
mod spread;

use tonic::{Request, Status};

use crate::listen::mesh::Caller;

/// Who calls on the mesh door. There is always one: requests reach a service only over a connection whose
/// peer was checked.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::unauthenticated("no peer"))
}
