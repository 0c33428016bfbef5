//! TLS towards a server.
//!
//! Decides:  that `ssl` is refused; its parameters do nothing without it.
//! Source:   HAProxy's manual, chapter 5.2; src/cfgparse-ssl.c, srv_kws, 3.5-dev5.
//! Not here: TLS for the whole process (global/tls.rs).

use crate::build::draft::ServerDraft;
use crate::keyword::{Entry, entries};

const SSL: &str = "`ssl`";

/// The family's entries.
pub const ENTRIES: &[Entry<ServerDraft>] = entries! {
    "ssl" "" SD refused("what should be encrypted would be sent in the clear") "TLS with the server";
    "no-ssl" "" SD inert(SSL) "takes `ssl` back";
    "allow-0rtt" "" SD inert(SSL) "early data";
    "alpn" "<protocols>" SD inert(SSL) "protocols offered";
    "ca-file" "<file>" SD inert(SSL) "CAs of the server";
    "ciphers" "<ciphers>" SD inert(SSL) "ciphers up to TLS 1.2";
    "ciphersuites" "<suites>" SD inert(SSL) "ciphers of TLS 1.3";
    "client-sigalgs" "<algorithms>" SD inert(SSL) "our signatures";
    "crl-file" "<file>" SD inert(SSL) "revoked certificates";
    "crt" "<file>" SD inert(SSL) "our certificate";
    "curves" "<curves>" SD inert(SSL) "curves";
    "force-sslv3" "" SD inert(SSL) "only SSLv3";
    "force-tlsv10" "" SD inert(SSL) "only TLS 1.0";
    "force-tlsv11" "" SD inert(SSL) "only TLS 1.1";
    "force-tlsv12" "" SD inert(SSL) "only TLS 1.2";
    "force-tlsv13" "" SD inert(SSL) "only TLS 1.3";
    "ktls" "on|off" SD inert(SSL) "TLS in the kernel";
    "no-renegotiate" "" SD inert(SSL) "no renegotiation";
    "no-ssl-reuse" "" SD inert(SSL) "a full handshake each time";
    "no-sslv3" "" SD inert(SSL) "no SSLv3";
    "no-tls-tickets" "" SD inert(SSL) "no session tickets";
    "no-tlsv10" "" SD inert(SSL) "no TLS 1.0";
    "no-tlsv11" "" SD inert(SSL) "no TLS 1.1";
    "no-tlsv12" "" SD inert(SSL) "no TLS 1.2";
    "no-tlsv13" "" SD inert(SSL) "no TLS 1.3";
    "no-verifyhost" "" SD inert(SSL) "takes `verifyhost` back";
    "npn" "<protocols>" SD inert(SSL) "protocols offered, the old way";
    "renegotiate" "" SD inert(SSL) "renegotiation";
    "sigalgs" "<algorithms>" SD inert(SSL) "signatures";
    "sni" "<expression>" SD inert(SSL) "the name asked for";
    "sni-auto" "" SD inert(SSL) "the name asked for, by itself";
    "no-sni-auto" "" SD inert(SSL) "takes `sni-auto` back";
    "ssl-max-ver" "<version>" SD inert(SSL) "the newest version";
    "ssl-min-ver" "<version>" SD inert(SSL) "the oldest version";
    "ssl-reuse" "" SD inert(SSL) "reuse sessions";
    "tls-tickets" "" SD inert(SSL) "session tickets";
    "verify" "none|required" SD inert(SSL) "verify the server";
    "verifyhost" "<name>" SD inert(SSL) "the name that must be in its certificate";
};
