//! Addresses: `host:port`, and AMQP URIs that keep their password to themselves.

use secrecy::{ExposeSecret as _, SecretString};
use std::fmt;

/// `host:port`; a host is a name, an IPv4 address or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort(String);

impl HostPort {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no host:port");
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let host_ok = if bracketed {
            host[1..host.len() - 1]
                .parse::<std::net::Ipv6Addr>()
                .is_ok()
        } else {
            is_host_name(host)
        };
        match port.parse::<u16>() {
            Ok(port) if port > 0 && host_ok => Ok(Self(text.to_owned())),
            _ => Err(refuse()),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// An `amqp` or `amqps` URI. `Display` and `Debug` show it without its password.
#[derive(Clone)]
pub struct BrokerUri {
    secret: SecretString,
    shown: String,
    vhost: String,
    authority: HostPort,
    tls: bool,
}

impl BrokerUri {
    /// Checks a text. The error never quotes it, because it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("it has no scheme; it begins with amqp:// or amqps://")?;
        let (tls, default_port) = match scheme {
            "amqp" => (false, 5672),
            "amqps" => (true, 5671),
            _ => return Err("its scheme is neither amqp nor amqps".to_owned()),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        // The last '@': a password that was not percent-encoded must not become part of a host that is shown.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (host, vhost) = match rest.split_once('/') {
            Some((host, vhost)) => (host, percent_decode(vhost)?),
            None => (rest, "/".to_owned()),
        };
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        let authority = if has_port {
            host.to_owned()
        } else {
            format!("{host}:{default_port}")
        };
        // Not quoted: without an '@', what looks like host and port may be user and password.
        let authority = HostPort::parse(&authority)
            .map_err(|_| "what stands before the vhost is no user@host:port".to_owned())?;
        if vhost.is_empty() || vhost.len() > 255 {
            return Err("its vhost has to have 1 to 255 bytes (the default one is %2f)".to_owned());
        }
        if vhost.contains('/') && rest.matches('/').count() > 1 {
            return Err("a '/' within its vhost is written %2f".to_owned());
        }
        let name = user
            .and_then(|user| user.split(':').next())
            .unwrap_or("guest");
        let path = rest.split_once('/').map_or("%2f", |(_, path)| path);
        let _ = query;
        Ok(Self {
            shown: format!("{scheme}://{name}@{authority}/{path}"),
            secret: SecretString::from(text),
            vhost,
            authority,
            tls,
        })
    }

    /// The whole URI, password and all, for the one place that connects.
    pub fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Decoded, as AMQP has it.
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// Where it leads.
    pub fn authority(&self) -> &HostPort {
        &self.authority
    }

    /// `amqps`.
    pub fn is_tls(&self) -> bool {
        self.tls
    }
}

impl fmt::Display for BrokerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for BrokerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

/// Checks `http://host:port` or `https://host:port`, as etcd endpoints and the management API are written.
pub(super) fn check_http_url(text: &str) -> Result<(), String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .ok_or_else(|| "it has to begin with http:// or https://".to_owned())?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("a user or password doesn't belong into it".to_owned());
    }
    HostPort::parse(rest)
        .map(|_| ())
        .map_err(|_| "what follows is no host:port".to_owned())
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let byte = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .ok_or("its vhost holds a '%' that is not followed by two hex digits")?;
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "its vhost is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_never_shows_its_password() {
        let uri = BrokerUri::parse("amqp://setgate:hunter2@127.0.0.1:5672/%2f").unwrap();
        assert_eq!(uri.to_string(), "amqp://setgate@127.0.0.1:5672/%2f");
        assert!(!format!("{uri:?}").contains("hunter2"));
        let odd = BrokerUri::parse("amqp://setgate:p@ss@127.0.0.1/%2f").unwrap();
        assert!(!odd.to_string().contains("ss@"), "{odd}");
        for wrong in [
            "hunter2",
            "http://u:hunter2@h/",
            "amqp://u:hunter2@/",
            "amqp://u:hunter2@h/%zz",
            "amqp://u:hunter2",
            "amqp://u:hunter2/%2f",
        ] {
            let error = BrokerUri::parse(wrong).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_uri_says_vhost_and_default_port() {
        let uri = BrokerUri::parse("amqps://rabbit.example.org/team%2fa").unwrap();
        assert_eq!(uri.vhost(), "team/a");
        assert_eq!(uri.authority().as_str(), "rabbit.example.org:5671");
        assert!(uri.is_tls());
        assert_eq!(BrokerUri::parse("amqp://h").unwrap().vhost(), "/");
    }

    #[test]
    fn host_and_port_are_both_needed() {
        for right in ["127.0.0.1:1", "[::1]:7100", "gate-1.example.org:7100"] {
            assert!(HostPort::parse(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "host",
            "host:",
            ":7100",
            "host:0",
            "host:99999",
            "::1:7100",
            "a b:1",
        ] {
            assert!(HostPort::parse(wrong).is_err(), "{wrong}");
        }
    }
}
