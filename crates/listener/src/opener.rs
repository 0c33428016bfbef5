//! The opener: whoever has the privilege to open listening sockets.
//!
//! Decides:  the one interface through which a privileged socket is asked for.
//! Not here: how a socket is opened (open.rs).
