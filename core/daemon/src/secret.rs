//! Values that must not be seen.

use zeroize::Zeroize;

/// A secret. It has no `Debug`, no `Display` and no `Clone`, so that it reaches no log by accident, and it is
/// wiped when it is dropped. The one way in is [`Secret::expose`], which is easy to find with grep.
///
/// ```compile_fail
/// let token = signet_daemon::Secret::new(String::from("hunter2"));
/// println!("{token:?}");
/// ```
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the value in.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for as short as possible.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    struct Watched(Arc<AtomicBool>);
    impl Zeroize for Watched {
        fn zeroize(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_secret_is_wiped_when_it_is_dropped() {
        let wiped = Arc::new(AtomicBool::new(false));
        let secret = Secret::new(Watched(wiped.clone()));
        assert!(!secret.expose().0.load(Ordering::SeqCst));
        drop(secret);
        assert!(wiped.load(Ordering::SeqCst));
    }
}
