//! Taking a TCP address, in clusters of either family of addresses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait for an accept.
const BACKLOG: i32 = 1024;

/// Listens on an address. `[::]` means both families, whatever the system's default is (`net.ipv6.bindv6only`), and IPv4
/// alone where the kernel has no IPv6, so that one configuration fits every cluster. Callers by IPv4 then come from
/// `::ffff:a.b.c.d`: whoever compares addresses makes them canonical first. Within a tokio runtime.
///
/// # Errors
/// What the system says.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match taken(address) {
        Err(error) if is_any_v6(address) && has_no_ipv6(&error) => {
            taken(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        done => done,
    }
}

fn is_any_v6(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

/// What a kernel that was started without IPv6, or built so, says.
fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

fn taken(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!is_any_v6(address))?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_of_ipv6_is_that_of_both_families() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_, accepted) =
            tokio::join!(tokio::net::TcpStream::connect(("127.0.0.1", port)), listener.accept());
        assert_eq!(accepted.unwrap().1.ip().to_canonical(), Ipv4Addr::LOCALHOST);
        assert!(listen(listener.local_addr().unwrap()).is_err(), "taken is taken");
    }

    #[test]
    fn only_a_kernel_without_ipv6_is_forgiven() {
        for (code, forgiven) in [(libc::EAFNOSUPPORT, true), (libc::EADDRINUSE, false), (libc::EACCES, false)]
        {
            assert_eq!(has_no_ipv6(&io::Error::from_raw_os_error(code)), forgiven);
        }
        assert!(!is_any_v6("[::1]:0".parse().unwrap()) && !is_any_v6("0.0.0.0:0".parse().unwrap()));
    }
}
