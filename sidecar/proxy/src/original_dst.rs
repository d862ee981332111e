//! Where a redirected connection wanted to go.
//!
//! Netfilter keeps the destination from before the redirect; the kernel tells it through a socket option,
//! one for IPv4 and one for IPv6.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use tokio::net::TcpStream;

/// The original destination. An error where the connection was not redirected by netfilter.
pub(crate) fn original_destination(socket: &TcpStream) -> io::Result<SocketAddr> {
    // An IPv4 connection to a dual-stack socket has an IPv6 local address but IPv4 conntrack state.
    match socket.local_addr()?.ip().to_canonical() {
        std::net::IpAddr::V4(_) => v4(socket),
        std::net::IpAddr::V6(_) => v6(socket),
    }
}

fn v4(socket: &TcpStream) -> io::Result<SocketAddr> {
    let address: libc::sockaddr_in = option(socket, libc::SOL_IP, libc::SO_ORIGINAL_DST)?;
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Ok(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(address.sin_port))))
}

fn v6(socket: &TcpStream) -> io::Result<SocketAddr> {
    let address: libc::sockaddr_in6 = option(socket, libc::SOL_IPV6, libc::IP6T_SO_ORIGINAL_DST)?;
    let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
    // The scope is the kernel's business: link-local destinations keep it.
    Ok(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, address.sin6_scope_id)))
}

fn option<T: Copy>(socket: &TcpStream, level: i32, name: i32) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes into `value`, which is that large; both
    // pointers live through the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(length).ok() != Some(size_of::<T>()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer has another length"));
    }
    // SAFETY: every field is an integer or an array of them, valid for any bytes, and zeroed before.
    Ok(unsafe { value.assume_init() })
}
