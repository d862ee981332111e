//! A small shop, to see a mesh at work: `web` calls `orders` over gRPC, `orders` calls `inventory`
//! over HTTP, `web` also writes to `ledger`, a line-based TCP service. `issuer` is a token issuer for
//! people who try the shop.
//!
//! None of the apps knows Signet. All they do for it is what `context.rs` shows in ten lines: hand the
//! `Txn-Token` that came with a request to the calls made for it.

mod context;
mod http;
mod inventory;
mod issuer;
mod ledger;
mod orders;
mod web;

use clap::{Parser, Subcommand};

use crate::http::Place;

mod shop {
    #![allow(clippy::all, unreachable_pub)]
    tonic::include_proto!("shop.v1");
}

#[derive(Parser)]
#[command(name = "signet-sample", version, about = "The apps of Signet's sample shop")]
struct Cli {
    #[command(subcommand)]
    app: App,
}

#[derive(Subcommand)]
enum App {
    /// The shop's front: HTTP/1.1.
    Web {
        #[arg(long)]
        listen: Place,
        /// Where `orders` is reached (the own sidecar's listener for it).
        #[arg(long)]
        orders: Place,
        #[arg(long)]
        ledger: Place,
    },
    /// Orders: gRPC.
    Orders {
        #[arg(long)]
        listen: Place,
        #[arg(long)]
        inventory: Place,
    },
    /// Stock: HTTP/1.1.
    Inventory {
        #[arg(long)]
        listen: Place,
    },
    /// A TCP service that speaks first and then acknowledges each line.
    Ledger {
        #[arg(long)]
        listen: Place,
    },
    /// Access tokens for alice and bob, with a JWKS endpoint. For trying things out only.
    Issuer {
        #[arg(long)]
        listen: Place,
        /// The issuer's own URL, as it stands in `iss`.
        #[arg(long)]
        url: String,
        #[arg(long, default_value = "shop")]
        audience: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().app {
        App::Web { listen, orders, ledger } => web::run(listen, orders, ledger).await,
        App::Orders { listen, inventory } => orders::run(listen, inventory).await,
        App::Inventory { listen } => inventory::run(listen).await,
        App::Ledger { listen } => ledger::run(listen).await,
        App::Issuer { listen, url, audience } => issuer::run(listen, url, audience).await,
    }
}
