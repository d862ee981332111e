//! What every Signet process needs once: logs, shutting down, an admin socket, metrics, the clock, files and
//! secrets. Nothing here knows what the process is for.

mod admin;
mod clock;
mod files;
mod harden;
mod http;
mod listen;
mod local;
pub mod logs;
mod metrics;
mod notify;
mod secret;
pub mod shutdown;
mod socket;

pub use admin::{AdminRequest, AdminResponse, AdminServer, Routes};
pub use clock::{Clock, ManualClock, SystemClock};
pub use files::{
    FileError, create_private_dir, read_mounted_secret, read_secret_file, refuse_if_readable_by_others,
    refuse_if_writable_by_others, write_addresses, write_private,
};
pub use harden::{Hardened, harden};
pub use listen::listen;
pub use local::LocalServer;
pub use metrics::{Exposition, MetricsServer, Scrape};
pub use notify::notify;
pub use secret::Secret;
pub use shutdown::{Drain, DrainGuard, Phase, Shutdown, Trigger};
pub use socket::{SocketError, bind_open_socket, bind_private_socket, bind_socket_with_mode};
