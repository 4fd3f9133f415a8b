//! `gateway device …` and `gateway types …`

use crate::{Failure, Place, print, running};
use clap::{Args, Subcommand};
use gateway::{
    config::Config,
    inspect::text,
    known::{Ask, Field, Page, Who, ask},
};
use serde_json::Value;

#[derive(Subcommand)]
pub(crate) enum DeviceCommand {
    /// Shows the devices that were seen
    List {
        /// Only those that are revoked, seen or not
        #[arg(long)]
        revoked: bool,
        /// One JSON object a line instead of a table
        #[arg(long)]
        json: bool,
        /// Only of this realm
        #[arg(long, value_name = "NAME")]
        realm: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Shows one device: counts, clock, latency, what it was refused last
    Show(OneDevice),
    /// Ends its connections within a second, and refuses new ones
    Revoke(OneDevice),
    /// Lets it connect again
    Allow(OneDevice),
}

#[derive(Args)]
pub(crate) struct OneDevice {
    /// The device id
    #[arg(value_name = "ID")]
    device: String,
    /// Its realm
    #[arg(long, value_name = "NAME", default_value = "default")]
    realm: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Subcommand)]
pub(crate) enum TypesCommand {
    /// Shows the kinds of fields that were learned, and from whom
    List {
        /// One JSON object a line instead of a table
        #[arg(long)]
        json: bool,
        /// Only of this realm
        #[arg(long, value_name = "NAME")]
        realm: Option<String>,
        /// Only of this measurement
        #[arg(long, value_name = "NAME")]
        measurement: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Says what kind a field has, whatever was learned
    Set {
        /// number, bool or text
        kind: String,
        #[command(flatten)]
        of: Named,
    },
    /// Forgets a kind, or those of a whole measurement: the next reading decides
    Forget(Named),
}

#[derive(Args)]
pub(crate) struct Named {
    /// The measurement
    #[arg(long, value_name = "NAME")]
    measurement: String,
    /// Its field
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// The realm
    #[arg(long, value_name = "NAME", default_value = "default")]
    realm: String,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn device(command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::List { revoked: true, json, realm, place } => {
            let config = place.load(Vec::new())?;
            let answer = ask(&config, &Ask::Revoked).map_err(running)?;
            let is_meant = |of: &&Value| realm.as_deref().is_none_or(|realm| of["realm"] == realm);
            for of in answer["devices"].as_array().into_iter().flatten().filter(is_meant) {
                let since = time(&of["revoked_ms"]);
                let row = || format!("{since:<30}  {}\n", name(&of["realm"], &of["device"]));
                print(&if json { text::json(of) + "\n" } else { row() })?;
            }
            Ok(())
        }
        DeviceCommand::List { revoked: false, json, realm, place } => {
            let config = place.load(Vec::new())?;
            if !json {
                print(&format!(
                    "{:<30}  {:<9}  {:>12}  {:>9}  DEVICE\n",
                    "LAST SEEN", "STATE", "ACCEPTED", "REFUSED"
                ))?;
            }
            let page = Page { realm, ..Page::default() };
            pages(&config, page, Ask::Devices, "devices", if json { line } else { device_row })
        }
        DeviceCommand::Show(of) => {
            let answer = of.ask(Ask::Device)?;
            let Value::Object(all) = answer else { return Ok(()) };
            let (last, all): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|(name, _)| name == "last_refusals");
            for (name, value) in &all {
                let shown = match name.strip_suffix("_ms").filter(|name| *name != "clock_offset") {
                    Some(at) => format!("{at:<16}  {}\n", time(value)),
                    None => format!("{name:<16}  {}\n", text::json(value)),
                };
                print(&shown)?;
            }
            let refusals = last.iter().filter_map(|(_, value)| value.as_array()).flatten();
            refusals.map(|of| format!("refused  {}\n", text::json(of))).try_for_each(|t| print(&t))
        }
        DeviceCommand::Revoke(of) => changed(of, Ask::Revoke, "revoked", "was revoked already"),
        DeviceCommand::Allow(of) => changed(of, Ask::Allow, "allowed again", "was not revoked"),
    }
}

pub(crate) fn types(command: TypesCommand) -> Result<(), Failure> {
    match command {
        TypesCommand::List { json, realm, measurement, place } => {
            let config = place.load(Vec::new())?;
            if !json {
                print(&format!("{:<7}  {:<30}  {:<24}  FIELD\n", "KIND", "SINCE", "FROM"))?;
            }
            let page = Page { realm, measurement, after: None };
            pages(&config, page, Ask::Types, "fields", if json { line } else { type_row })
        }
        TypesCommand::Set { kind, of } => {
            let (config, field) = of.take()?;
            ask(&config, &Ask::SetType { of: field, kind }).map_err(running)?;
            print("set\n")
        }
        TypesCommand::Forget(of) => {
            let (config, field) = of.take()?;
            let answer = ask(&config, &Ask::ForgetTypes(field)).map_err(running)?;
            print(&format!("{} kinds forgotten\n", answer["forgotten"]))
        }
    }
}

impl OneDevice {
    fn ask(self, what: fn(Who) -> Ask) -> Result<Value, Failure> {
        let config = self.place.load(Vec::new())?;
        let who = Who { realm: self.realm, device: self.device };
        ask(&config, &what(who)).map_err(running)
    }
}

impl Named {
    fn take(self) -> Result<(Config, Field), Failure> {
        let Self { realm, measurement, field, place } = self;
        Ok((place.load(Vec::new())?, Field { realm, measurement, field }))
    }
}

fn changed(of: OneDevice, what: fn(Who) -> Ask, yes: &str, no: &str) -> Result<(), Failure> {
    let device = of.device.clone();
    let answer = of.ask(what)?;
    let what = if answer["changed"] == true { yes } else { no };
    // Perhaps it is mistyped, or in another realm.
    let note = if answer["seen"] == false { "; no such device was ever seen" } else { "" };
    print(&format!("{} {what}{note}\n", text::name(&device)))
}

/// Prints page by page, so that no more than one is in memory.
fn pages(
    config: &Config,
    mut page: Page,
    what: fn(Page) -> Ask,
    list: &str,
    row: fn(&Value) -> String,
) -> Result<(), Failure> {
    loop {
        let answer = ask(config, &what(page.clone())).map_err(running)?;
        let rows = answer[list].as_array().into_iter().flatten();
        print(&rows.map(row).collect::<String>())?;
        let Some(last) = answer["last"].as_array() else { return Ok(()) };
        let names = last.iter().filter_map(|name| name.as_str().map(str::to_owned));
        page.after = Some(names.collect());
    }
}

fn line(of: &Value) -> String {
    text::json(of) + "\n"
}

fn device_row(of: &Value) -> String {
    let state = match (of["revoked_ms"].is_null(), of["connected"] == true) {
        (false, _) => "revoked",
        (true, true) => "connected",
        (true, false) => "away",
    };
    let seen = time(&of["last_seen_ms"]);
    // As text: a JSON number is not padded.
    let [accepted, refused] = ["accepted", "refused"].map(|key| of[key].to_string());
    let name = name(&of["realm"], &of["device"]);
    format!("{seen:<30}  {state:<9}  {accepted:>12}  {refused:>9}  {name}\n")
}

fn type_row(of: &Value) -> String {
    let word = |key: &str| of[key].as_str().unwrap_or_default();
    let from = match word("from") {
        "" => word("origin").to_owned(),
        from => format!("{} {}", word("origin"), text::name(from)),
    };
    let since = time(&of["at_ms"]);
    let measurement = name(&of["realm"], &of["measurement"]);
    let field = text::name(word("field"));
    format!("{:<7}  {since:<30}  {from:<24}  {measurement} {field}\n", word("kind"))
}

/// With the realm where it is not the usual one.
fn name(realm: &Value, of: &Value) -> String {
    let of = text::name(of.as_str().unwrap_or_default());
    match realm.as_str() {
        None | Some("default") => of,
        Some(realm) => format!("{of} (realm {})", text::name(realm)),
    }
}

fn time(ms: &Value) -> String {
    ms.as_i64().map_or_else(|| "-".to_owned(), |ms| text::time(ms.saturating_mul(1_000_000)))
}
