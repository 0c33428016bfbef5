//! TLS towards clients.
//!
//! Decides:  that `ssl` is refused; its parameters do nothing without it.
//! Source:   HAProxy's manual, chapter 5.1; src/cfgparse-ssl.c, bind_kws, 3.5-dev5.
//! Not here: TLS for the whole process (global/tls.rs).

use crate::build::draft::BindDraft;
use crate::keyword::{Entry, entries};

const SSL: &str = "`ssl`";

/// The family's entries.
pub const ENTRIES: &[Entry<BindDraft>] = entries! {
    "ssl" "" BIND refused("what should be encrypted would be sent in the clear") "TLS with clients";
    "allow-0rtt" "" BIND inert(SSL) "early data";
    "alpn" "<protocols>" BIND inert(SSL) "protocols offered";
    "ca-file" "<file>" BIND inert(SSL) "CAs of clients";
    "ca-ignore-err" "<errors>" BIND inert(SSL) "errors of CAs to ignore";
    "ca-sign-file" "<file>" BIND inert(SSL) "the CA that signs generated certificates";
    "ca-sign-pass" "<text>" BIND inert(SSL) "its passphrase";
    "ca-verify-file" "<file>" BIND inert(SSL) "CAs to verify with, not named to clients";
    "ciphers" "<ciphers>" BIND inert(SSL) "ciphers up to TLS 1.2";
    "ciphersuites" "<suites>" BIND inert(SSL) "ciphers of TLS 1.3";
    "client-sigalgs" "<algorithms>" BIND inert(SSL) "signatures of clients";
    "crl-file" "<file>" BIND inert(SSL) "revoked certificates";
    "crt" "<file>" BIND inert(SSL) "a certificate";
    "crt-ignore-err" "<errors>" BIND inert(SSL) "errors of certificates to ignore";
    "crt-list" "<file>" BIND inert(SSL) "a list of certificates";
    "curves" "<curves>" BIND inert(SSL) "curves";
    "default-crt" "<file>" BIND inert(SSL) "the certificate without SNI";
    "ecdhe" "<curve>" BIND inert(SSL) "the curve";
    "ech" "<directory>" BIND inert(SSL) "encrypted ClientHello";
    "force-sslv3" "" BIND inert(SSL) "only SSLv3";
    "force-tlsv10" "" BIND inert(SSL) "only TLS 1.0";
    "force-tlsv11" "" BIND inert(SSL) "only TLS 1.1";
    "force-tlsv12" "" BIND inert(SSL) "only TLS 1.2";
    "force-tlsv13" "" BIND inert(SSL) "only TLS 1.3";
    "generate-certificates" "" BIND inert(SSL) "certificates by SNI";
    "ktls" "on|off" BIND inert(SSL) "TLS in the kernel";
    "no-alpn" "" BIND inert(SSL) "no ALPN";
    "no-ca-names" "" BIND inert(SSL) "do not name CAs to clients";
    "no-sslv3" "" BIND inert(SSL) "no SSLv3";
    "no-strict-sni" "" BIND inert(SSL) "a default certificate for unknown names";
    "no-tls-tickets" "" BIND inert(SSL) "no session tickets";
    "no-tlsv10" "" BIND inert(SSL) "no TLS 1.0";
    "no-tlsv11" "" BIND inert(SSL) "no TLS 1.1";
    "no-tlsv12" "" BIND inert(SSL) "no TLS 1.2";
    "no-tlsv13" "" BIND inert(SSL) "no TLS 1.3";
    "npn" "<protocols>" BIND inert(SSL) "protocols offered, the old way";
    "prefer-client-ciphers" "" BIND inert(SSL) "the client's order";
    "sigalgs" "<algorithms>" BIND inert(SSL) "signatures";
    "ssl-max-ver" "<version>" BIND inert(SSL) "the newest version";
    "ssl-min-ver" "<version>" BIND inert(SSL) "the oldest version";
    "strict-sni" "" BIND inert(SSL) "only known names";
    "tls-ticket-keys" "<file>" BIND inert(SSL) "keys of session tickets";
    "tls-tickets" "" BIND inert(SSL) "session tickets";
    "verify" "none|optional|required" BIND inert(SSL) "verify clients";
};
