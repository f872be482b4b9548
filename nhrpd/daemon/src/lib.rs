//! The daemon as a library: configuration and the shell around the core.
