//! The files that a configuration names: secrets are read, PEM files are checked for being there and being PEM.
//!
//! Whether a certificate fits its key and is in time is the business of `setgate check` and of the links, which read it
//! again when it changes.

use super::ConfigFault;
use super::reader::{Reader, code};
use secrecy::SecretString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A configuration is some 2 KiB; more than this is another file by mistake.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Secrets are a line.
const SECRET_BYTES_MAX: u64 = 4 << 10;
/// A bundle of every public authority is some 250 KiB.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// PEM files of one side of a TLS connection; those that are named are there and readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// Authorities that the peer is checked by.
    pub ca: PathBuf,
    /// Own certificate and its key; always both or none. Links have them always.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Whether a TLS section has to name a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Required,
    Optional,
}

/// Reads the configuration itself.
pub(super) fn read_config(path: &Path) -> Result<String, ConfigFault> {
    let fault = |message: String, mend: &str| ConfigFault {
        file: path.display().to_string(),
        line: 0,
        column: 0,
        code: code::UNREADABLE,
        message,
        mend: mend.to_owned(),
    };
    let bytes = read_bounded(path, CONFIG_BYTES_MAX).map_err(|why| {
        fault(
            format!("the configuration can't be read: {why}"),
            "give the path of gateway.yaml with --config, readable by this user",
        )
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| fault("the file is not UTF-8".to_owned(), "save it as UTF-8"))?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}

/// The secret in the file that a field names: its first line, without the line's end.
pub(super) fn secret(reader: &mut Reader<'_>, path: &str) -> Option<SecretString> {
    let found = reader.text(path)?;
    let file = reader.resolve(&found.value);
    let shown = file.display();
    let refuse = |reader: &mut Reader<'_>, why: String| {
        reader.fault(
            &found.origin,
            code::UNREADABLE,
            format!("`{path}`: {why}"),
            "write the secret into it as one line, readable by this user alone (chmod 600)",
        );
    };
    let bytes = match read_bounded(&file, SECRET_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(why) => {
            refuse(reader, format!("{shown} can't be read: {why}"));
            return None;
        }
    };
    let secret = String::from_utf8(bytes)
        .ok()
        .map(|text| text.lines().next().map(str::to_owned).unwrap_or_default());
    match secret {
        Some(secret) if !secret.is_empty() => Some(SecretString::from(secret)),
        Some(_) => {
            refuse(reader, format!("{shown} holds no secret in its first line"));
            None
        }
        None => {
            refuse(reader, format!("{shown} is not UTF-8"));
            None
        }
    }
}

/// A section of `ca`, `cert` and `key`. `None` when it is absent or faulty.
pub(super) fn tls(reader: &mut Reader<'_>, section: &str, identity: Identity) -> Option<TlsPaths> {
    if !reader.has(section) {
        return None;
    }
    let [ca, cert, key] = ["ca", "cert", "key"].map(|name| format!("{section}.{name}"));
    reader.require(
        &ca,
        "name the PEM file of the authorities that peers are checked by",
    );
    if identity == Identity::Required || reader.has(&cert) || reader.has(&key) {
        reader.require(
            &cert,
            "name the PEM file of the certificate that belongs to the key",
        );
        reader.require(&key, "name the PEM file of the certificate's key");
    }
    // All three are looked at before giving up on one, so that all faults are named.
    let (ca, cert, key) = (
        pem(reader, &ca, "CERTIFICATE"),
        pem(reader, &cert, "CERTIFICATE"),
        pem(reader, &key, "PRIVATE KEY"),
    );
    let identity = match (cert, key, identity) {
        (Some(cert), Some(key), _) => Some((cert, key)),
        (None, None, Identity::Optional) => None,
        _ => return None,
    };
    Some(TlsPaths { ca: ca?, identity })
}

fn pem(reader: &mut Reader<'_>, path: &str, label: &str) -> Option<PathBuf> {
    let found = reader.text(path)?;
    let file = reader.resolve(&found.value);
    let shown = file.display();
    let why = match read_bounded(&file, PEM_BYTES_MAX) {
        Ok(bytes) => {
            let marker = format!("{label}-----");
            if bytes
                .windows(marker.len())
                .any(|window| window == marker.as_bytes())
            {
                return Some(file);
            }
            format!("{shown} holds no PEM block `{label}`")
        }
        Err(why) => format!("{shown} can't be read: {why}"),
    };
    reader.fault(
        &found.origin,
        code::UNREADABLE,
        format!("`{path}`: {why}"),
        "give the path of a PEM file that this user may read, relative to the configuration",
    );
    None
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| plain(&error))?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| plain(&error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it has more than {bytes_max} bytes"));
    }
    Ok(bytes)
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}
