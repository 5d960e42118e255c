//! `setgate sources backfill`: asks a gateway of the unit where the messages lie, until nothing is left.

use super::asked::Rate;
use super::units::{self, Answer, Units};
use super::{Common, TokenArgs, ended, to_json, tokens};
use crate::cli::block_on;
use crate::cli::failure::Failure;
use crate::cli::rules::Format;
use crate::gateway::parked::{BackfillAsk, BackfillFrom, Backfilled};
use crate::model::{SourceName, UnitId};
use anstream::{eprintln, println};
use hyper::Method;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("from").required(true))]
pub(in crate::cli) struct Args {
    /// The source.
    source: SourceName,
    /// The unit that gets them.
    #[arg(long, value_name = "UNIT")]
    to: UnitId,
    /// A stream that has kept them, in the source's virtual host; they stay in it.
    #[arg(long, value_name = "NAME", group = "from")]
    stream: Option<String>,
    /// A queue that has kept them; they leave it.
    #[arg(long, value_name = "NAME", group = "from")]
    queue: Option<String>,
    /// At most so many a second, such as 100/s.
    #[arg(long, value_name = "N/s")]
    rate: Option<Rate>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    common: Common,
}

impl Args {
    pub(in crate::cli) fn output(&self) -> Format {
        self.common.output
    }
}

pub(in crate::cli) fn run(args: &Args) -> Result<ExitCode, Failure> {
    block_on(async {
        let Some(unit) = &args.common.unit else {
            let text = "--unit UNIT: say in which unit the messages lie";
            return Err(Failure::Usage(text.to_owned()));
        };
        let from = match (&args.stream, &args.queue) {
            (Some(stream), _) => BackfillFrom::Stream(stream.clone()),
            // The command line has one of both.
            (None, queue) => BackfillFrom::Queue(queue.clone().unwrap_or_default()),
        };
        let tokens = tokens(&args.token, &args.common.etcd)?;
        let units = Units::find(&args.common.etcd, Some(unit), tokens).await?;
        let ask = BackfillAsk {
            source: args.source.clone(),
            to: args.to.clone(),
            from,
            rate: args.rate.map(Rate::per_second),
            left: None,
            behind: None,
        };
        let (done, silent) = until_done(&units, ask, args.common.output).await?;
        let Backfilled {
            sent, too_large, ..
        } = done;
        match args.common.output {
            Format::Text => {
                println!("{sent} sent again to {}", args.to);
                if too_large > 0 {
                    println!("{too_large} were left out: their bodies are above message_max");
                }
            }
            Format::Json => println!("{}", to_json(&done)?),
        }
        if let Some(cause) = &done.failed {
            eprintln!("error: {unit}: {cause}");
        }
        let code = ended(&silent);
        Ok(if done.failed.is_none() && too_large == 0 {
            code
        } else {
            ExitCode::from(1)
        })
    })
}

/// A gateway answers within a minute, however much there is.
async fn until_done(
    units: &Units,
    mut ask: BackfillAsk,
    output: Format,
) -> Result<(Backfilled, Vec<String>), Failure> {
    let mut whole = Backfilled::default();
    let Some(unit) = units.all.first() else {
        return Ok((whole, Vec::new()));
    };
    loop {
        let body = to_json(&ask)?.into_bytes();
        let slice: Backfilled = match units.ask(unit, Method::POST, "/v1/backfill", body).await? {
            Answer::Done(slice) => units::read(&slice, unit)?,
            Answer::Refused { text } => return Err(Failure::Refused(text)),
            Answer::Unknown => {
                let text = format!("the gateways of {} are of another version", unit.name);
                return Err(Failure::Refused(text));
            }
            Answer::Silent(cause) => return Ok((whole, vec![cause])),
        };
        whole.sent += slice.sent;
        whole.too_large += slice.too_large;
        whole.failed = slice.failed;
        whole.left = slice.left;
        whole.behind = slice.behind.or(whole.behind);
        if whole.left > 0 && whole.failed.is_none() && slice.sent + slice.too_large == 0 {
            whole.failed = Some(format!("{} messages could not be read", whole.left));
        }
        if whole.failed.is_some() || whole.left == 0 {
            return Ok((whole, Vec::new()));
        }
        if output == Format::Text {
            eprintln!("{} sent, {} to come", whole.sent, whole.left);
        }
        (ask.left, ask.behind) = (Some(whole.left), whole.behind);
    }
}
