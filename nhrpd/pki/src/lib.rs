//! Certificates: path building, the key-usage mask rule, extended key usage, identity, and the
//! tunnel addresses and prefixes that a certificate allows. [`authority`] is a small CA.
