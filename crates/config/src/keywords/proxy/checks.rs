//! Health checks that speak a protocol.
//!
//! Decides:  that none is there yet: they decide which servers get traffic, so they are refused.
//! Source:   HAProxy's manual, chapter 4.2; src/tcpcheck.c, 3.5-dev5.
//! Not here: the connect check of `check` (server/check.rs).

use crate::build::draft::ProxyDraft;
use crate::keyword::{Entry, entries};

const YET: &str = "checks connect, and say nothing yet; which servers get traffic would differ";
const TCP: &str = "`option tcp-check`";
const HTTP: &str = "`option httpchk`";

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "option tcp-check" "" DLB refused(YET) "a check by `tcp-check` rules";
    "option httpchk" "[<method>] [<uri>] [<version>] [<host>]" DLB refused(YET) "a check by an HTTP request";
    "option mysql-check" "[user <name> [<version>]]" DLB refused(YET) "a MySQL check";
    "option pgsql-check" "user <name>" DLB refused(YET) "a PostgreSQL check";
    "option redis-check" "" DLB refused(YET) "a Redis check";
    "option smtpchk" "[HELO|EHLO <domain>]" DLB refused(YET) "an SMTP check";
    "option ldap-check" "" DLB refused(YET) "an LDAP check";
    "option ssl-hello-chk" "" DLB refused(YET) "a check by a ClientHello";
    "option spop-check" "" DLB refused(YET) "an SPOP check";
    "option external-check" "" DLB refused(YET) "a check by a program";
    "external-check command" "<command>" DLB inert("`option external-check`") "the program";
    "external-check path" "<path>" DLB inert("`option external-check`") "its PATH";
    "tcp-check comment" "<text>" DLB inert(TCP) "a text for the next rule";
    "tcp-check connect" "[<parameter>…]" DLB inert(TCP) "connect";
    "tcp-check expect" "[<parameter>…] [!]<match> <pattern>" DLB inert(TCP) "what must be received";
    "tcp-check send" "<text>" DLB inert(TCP) "send a text";
    "tcp-check send-lf" "<format>" DLB inert(TCP) "send a log format";
    "tcp-check send-binary" "<hex>" DLB inert(TCP) "send bytes";
    "tcp-check send-binary-lf" "<format>" DLB inert(TCP) "send bytes by a log format";
    "tcp-check set-var" "(<name>) <expression>" DLB inert(TCP) "set a variable";
    "tcp-check set-var-fmt" "(<name>) <format>" DLB inert(TCP) "set a variable by a format";
    "tcp-check unset-var" "(<name>)" DLB inert(TCP) "unset a variable";
    "http-check comment" "<text>" DLB inert(HTTP) "a text for the next rule";
    "http-check connect" "[<parameter>…]" DLB inert(HTTP) "connect";
    "http-check disable-on-404" "" DLB inert(HTTP) "404 is maintenance";
    "http-check expect" "[<parameter>…] [!]<match> <pattern>" DLB inert(HTTP) "what the answer must be";
    "http-check send" "[<parameter>…]" DLB inert(HTTP) "send a request";
    "http-check send-state" "" DLB inert(HTTP) "tell the server its state";
    "http-check set-var" "(<name>) <expression>" DLB inert(HTTP) "set a variable";
    "http-check set-var-fmt" "(<name>) <format>" DLB inert(HTTP) "set a variable by a format";
    "http-check unset-var" "(<name>)" DLB inert(HTTP) "unset a variable";
};
