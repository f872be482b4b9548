//! Look-up of names in a static program.

/// Names are looked up in `/etc/hosts`, then by DNS as `/etc/resolv.conf` says, whatever
/// `/etc/nsswitch.conf` asks for: a static program cannot load the modules that it names, which
/// belong to the C library of the machine. To be called before the first look-up; a program that
/// is not static is left as it is.
pub fn without_modules() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        use std::ffi::{c_char, c_int};

        #[allow(unsafe_code, reason = "no crate at hand has this function of glibc")]
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        // SAFETY: both are strings that end with a zero and live as long as the program; glibc
        // copies what it keeps. No other thread runs yet.
        #[allow(unsafe_code, reason = "see above")]
        let refused = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
        debug_assert_eq!(refused, 0, "both services are inside glibc since 2.34");
    }
}
