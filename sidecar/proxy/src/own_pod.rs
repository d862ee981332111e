//! Calls of a pod to itself.
//!
//! When a service has an endpoint in the caller's own pod, the sidecar dials an address of its own host. Such a
//! connection never arrives from outside, so that only a redirect rule for what leaves can bring it to the inbound
//! listener; and that rule must not catch what the inbound side dials, which is the same app at the same address,
//! by the same user. They are told apart by their source: here it is the loopback address, which the system
//! chooses for no connection to another address. All else of the sidecar is left alone by the rules, so that
//! nothing can go round in circles.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use tokio::net::{TcpSocket, TcpStream};

use crate::worker::Common;

/// Dials an endpoint of the mesh.
pub(crate) async fn dial<E>(common: &Common<E>, endpoint: SocketAddr) -> io::Result<TcpStream> {
    // What listens there itself is reached without a redirect.
    let listens = |own: &SocketAddr| {
        own.port() == endpoint.port() && (own.ip().is_unspecified() || own.ip() == endpoint.ip())
    };
    if common.redirected && !common.own.iter().any(listens) && is_here(endpoint) {
        from_loopback(endpoint)?.connect(endpoint).await
    } else {
        TcpStream::connect(endpoint).await
    }
}

/// Whether this is an address of this host, other than a loopback one: what is sent there would come from there.
/// Nothing is sent.
fn is_here(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    !ip.is_loopback() && source().is_ok_and(|source| source.ip().to_canonical() == ip)
}

fn from_loopback(endpoint: SocketAddr) -> io::Result<TcpSocket> {
    let (socket, loopback): (_, IpAddr) = if endpoint.is_ipv4() {
        (TcpSocket::new_v4()?, Ipv4Addr::LOCALHOST.into())
    } else {
        (TcpSocket::new_v6()?, Ipv6Addr::LOCALHOST.into())
    };
    // The port is chosen with the destination, so that as many connections fit as to any other host.
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `on`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(SocketAddr::new(loopback, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_host_is_here_and_no_other_is() {
        for elsewhere in ["127.0.0.1:80", "[::1]:80", "192.0.2.1:80", "[2001:db8::1]:80"] {
            assert!(!is_here(elsewhere.parse().unwrap()), "{elsewhere}");
        }
        // Whatever address this machine would call others from.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:80").is_ok() {
            let own = socket.local_addr().unwrap();
            assert!(own.ip().is_loopback() || is_here(own), "{own}");
        }
    }

    #[tokio::test]
    async fn a_call_to_the_own_pod_comes_from_the_loopback_address() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(listen).await else { continue };
            let address = listener.local_addr().unwrap();
            let dialled = from_loopback(address).unwrap().connect(address).await.unwrap();
            assert!(dialled.local_addr().unwrap().ip().is_loopback());
        }
    }
}
