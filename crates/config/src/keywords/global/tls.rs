//! TLS for the whole process.
//!
//! Decides:  that it loads: without `ssl` on a `bind` or `server` line it does nothing.
//! Source:   HAProxy's manual, chapters 3.1 and 3.2, newest version.
//! Not here: `ssl` itself (bind/tls.rs, server/tls.rs), which is refused.

use crate::build::draft::GlobalDraft;
use crate::keyword::{Entry, entries};

const SSL: &str = "`ssl`";

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "ca-base" "<directory>" G inert(SSL) "where CA files are";
    "crt-base" "<directory>" G inert(SSL) "where certificates are";
    "key-base" "<directory>" G inert(SSL) "where keys are";
    "issuers-chain-path" "<directory>" G inert(SSL) "issuers to complete chains with";
    "ssl-default-bind-ciphers" "<ciphers>" G inert(SSL) "ciphers up to TLS 1.2, for clients";
    "ssl-default-bind-ciphersuites" "<suites>" G inert(SSL) "ciphers of TLS 1.3, for clients";
    "ssl-default-bind-client-sigalgs" "<algorithms>" G inert(SSL) "signatures of clients";
    "ssl-default-bind-curves" "<curves>" G inert(SSL) "curves, for clients";
    "ssl-default-bind-options" "<option>…" G inert(SSL) "TLS options, for clients";
    "ssl-default-bind-sigalgs" "<algorithms>" G inert(SSL) "signatures, for clients";
    "ssl-default-server-ciphers" "<ciphers>" G inert(SSL) "ciphers up to TLS 1.2, for servers";
    "ssl-default-server-ciphersuites" "<suites>" G inert(SSL) "ciphers of TLS 1.3, for servers";
    "ssl-default-server-client-sigalgs" "<algorithms>" G inert(SSL) "our signatures, for servers";
    "ssl-default-server-curves" "<curves>" G inert(SSL) "curves, for servers";
    "ssl-default-server-options" "<option>…" G inert(SSL) "TLS options, for servers";
    "ssl-default-server-sigalgs" "<algorithms>" G inert(SSL) "signatures, for servers";
    "ssl-dh-param-file" "<file>" G inert(SSL) "Diffie-Hellman parameters";
    "ssl-engine" "<name> [algo <algorithms>]" G inert(SSL) "an OpenSSL engine";
    "ssl-load-extra-del-ext" "" G inert(SSL) "the names of files beside certificates";
    "ssl-load-extra-files" "none|all|<kind>…" G inert(SSL) "files beside certificates";
    "ssl-mode-async" "" G inert(SSL) "asynchronous TLS";
    "ssl-passphrase-cmd" "<command>…" G inert(SSL) "what tells a key's passphrase";
    "ssl-propquery" "<query>" G inert(SSL) "OpenSSL's property query";
    "ssl-provider" "<name>" G inert(SSL) "an OpenSSL provider";
    "ssl-provider-path" "<directory>" G inert(SSL) "where providers are";
    "ssl-security-level" "<level>" G inert(SSL) "OpenSSL's security level";
    "ssl-server-verify" "none|required" G inert(SSL) "verify servers";
    "ssl-skip-self-issued-ca" "" G inert(SSL) "leave the root out of the chain";
    "ocsp-update.disable" "on|off" G inert(SSL) "no OCSP updates";
    "ocsp-update.httpproxy" "<address>" G inert(SSL) "the proxy for OCSP";
    "ocsp-update.maxdelay" "<seconds>" G inert(SSL) "the longest time between OCSP updates";
    "ocsp-update.mindelay" "<seconds>" G inert(SSL) "the shortest time between OCSP updates";
    "ocsp-update.mode" "on|off" G inert(SSL) "OCSP updates";
    "tune.ssl.cachesize" "<number>" G inert(SSL) "the session cache";
    "tune.ssl.capture-buffer-size" "<bytes>" G inert(SSL) "how much of a ClientHello is kept";
    "tune.ssl.capture-cipherlist-size" "<bytes>" G inert(SSL) "the same, by its old name";
    "tune.ssl.certificate-compression" "auto|off" G inert(SSL) "compressed certificates";
    "tune.ssl.default-dh-param" "<bits>" G inert(SSL) "the size of Diffie-Hellman parameters";
    "tune.ssl.force-private-cache" "" G inert(SSL) "one session cache a process";
    "tune.ssl.hard-maxrecord" "<bytes>" G inert(SSL) "the largest record, always";
    "tune.ssl.keylog" "on|off" G inert(SSL) "keep secrets for logs";
    "tune.ssl.keyupdate-rate-limit" "<number>" G inert(SSL) "key updates a second";
    "tune.ssl.lifetime" "<time>" G inert(SSL) "how long sessions are kept";
    "tune.ssl.maxrecord" "<bytes>" G inert(SSL) "the largest record at first";
    "tune.ssl.ocsp-update.maxdelay" "<seconds>" G inert(SSL) "`ocsp-update.maxdelay`, by its old name";
    "tune.ssl.ocsp-update.mindelay" "<seconds>" G inert(SSL) "`ocsp-update.mindelay`, by its old name";
    "tune.ssl.ssl-ctx-cache-size" "<number>" G inert(SSL) "generated certificates kept";
    "acme.scheduler" "auto|off" G inert(SSL) "renew certificates";
    "fips-mode" "" G inert(SSL) "only what FIPS 140 allows";
};
