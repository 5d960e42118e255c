//! Which etcd and which space a command is for.

use super::Failure;
use crate::etcd::{EtcdConfig, EtcdCredentials};
use crate::gateway::config::{Config, RulesFrom};
use crate::model::SpaceId;
use std::path::PathBuf;

/// Flags that name etcd and the space, or the gateway.yaml that does.
#[derive(Debug, Clone, clap::Args)]
pub struct EtcdArgs {
    /// etcd's endpoints, separated by commas, for example http://127.0.0.1:2379.
    #[arg(
        long,
        value_name = "URL[,URL]",
        value_delimiter = ',',
        conflicts_with = "config"
    )]
    etcd: Vec<String>,
    /// The space.
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    space: Option<String>,
    /// A user of etcd.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "config",
        requires = "etcd_password_file"
    )]
    etcd_user: Option<String>,
    /// The file with its password, on the first line.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "config",
        requires = "etcd_user"
    )]
    etcd_password_file: Option<PathBuf>,
    /// A gateway's configuration that names both.
    #[arg(long, value_name = "gateway.yaml")]
    config: Option<PathBuf>,
}

impl EtcdArgs {
    /// The configuration, when it was named.
    pub(in crate::cli) fn config(&self) -> Option<&std::path::Path> {
        self.config.as_deref()
    }

    pub(in crate::cli) fn resolve(&self) -> Result<(EtcdConfig, SpaceId), Failure> {
        if let Some(path) = &self.config {
            return from_config(path);
        }
        let Some(space) = self.space.as_ref().filter(|_| !self.etcd.is_empty()) else {
            return Err(Failure::Usage(
                "name etcd and the space: --etcd URL[,URL] --space NAME, or --config gateway.yaml"
                    .to_owned(),
            ));
        };
        let space = SpaceId::parse(space)
            .map_err(|error| Failure::Usage(format!("--space {space:?}: {error}")))?;
        let credentials = match (&self.etcd_user, &self.etcd_password_file) {
            (Some(username), Some(path)) => Some(EtcdCredentials {
                username: username.clone(),
                password: read_password(path)?.into(),
            }),
            (Some(_) | None, _) => None,
        };
        Ok((
            EtcdConfig {
                endpoints: self.etcd.clone(),
                credentials,
                tls: None,
            },
            space,
        ))
    }
}

fn from_config(path: &std::path::Path) -> Result<(EtcdConfig, SpaceId), Failure> {
    let config = Config::load(path, &crate::cli::surroundings()).map_err(Failure::Config)?;
    match config.rules {
        RulesFrom::Etcd(part) => Ok(((&part).into(), config.space)),
        RulesFrom::Dir(dir) => Err(Failure::Refused(format!(
            "{} takes its rules from the folder {}, not from etcd; edit the files there and restart the gateway",
            path.display(),
            dir.display()
        ))),
    }
}

fn read_password(path: &std::path::Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::Refused(format!(
            "can't read the password file {}: {error}; check the path and its permissions",
            path.display()
        ))
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
