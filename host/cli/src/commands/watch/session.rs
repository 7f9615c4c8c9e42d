//! The main loop of a watch: each round scans the files, builds if sources changed, and pushes if the bundle differs from the
//! server's.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use samovar_bundle::collect::LocalBundle;
use samovar_bundle::hash_cache::Identity;
use samovar_bundle::manifest::Manifest;
use samovar_client::{Client, ClientError, StatusCode, Target};
use samovar_types::bundle::Bundle;
use samovar_types::digest::Digest;
use samovar_types::error::ErrorCode;
use tokio::sync::mpsc;

use super::Arguments;
use super::folders::Hints;
use super::link::{self, Link};
use super::plan::{Built, Cause, Next, Plan, Snapshot};
use super::project::{After, Collected, Project, Scope};
use super::reload::{self, Reloaded};
use super::report::{Event, Report, Serving, ms};
use super::tail;
use crate::build::{Build, Group};
use crate::commands::logs::Follower;

/// Pause before trying again a server that did not answer or was busy with another reload.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Pause before reading a file again that a program is writing.
const WRITING_DELAY: Duration = Duration::from_millis(50);

/// A running watch.
pub struct Session<'a> {
    pub client: &'a Client,
    pub arguments: &'a Arguments,
    pub report: &'a Report,
    /// Whether the server can be reached.
    pub link: &'a Link,
    /// Receives the log to follow.
    pub follow: mpsc::Sender<Follower>,
    /// Triggers the next round.
    pub hints: Hints,
    /// The project's files; `None` while another thread reads them.
    pub project: Option<Project>,
    /// The state between rounds.
    pub state: State,
}

/// The state between rounds.
#[derive(Default)]
pub struct State {
    plan: Plan,
    /// The manifest of the last push.
    manifest: Option<Identity>,
    /// The last bundle that the server accepted or refused.
    pushed: Option<(String, Bundle)>,
    /// The blobs of the last bundle that the server accepted.
    there: BTreeSet<Digest>,
    /// The model whose log is followed.
    followed: Option<String>,
    /// The last reported error and its manifest, so that an error is not reported twice.
    complaint: Option<(String, Option<Identity>)>,
    /// Duration of the build whose component is not pushed yet.
    build: Option<Duration>,
    is_past_first: bool,
}

/// When to start the next round.
enum Again {
    /// After the next change.
    Changed,
    /// After this time, or after the next change.
    After(Duration),
}

enum Push {
    /// The files that a build has just written.
    Built,
    /// The present files, which may be unchanged.
    Present,
    /// Nothing, because the component is older than its sources.
    Nothing,
}

impl Session<'_> {
    /// Runs rounds until an error ends the watch.
    pub async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let again = self.round().await?;
            self.state.is_past_first = true;
            let look = self.project.as_ref().map_or(Duration::ZERO, |one| one.took);
            let pause = async {
                match again {
                    Again::After(delay) => tokio::time::sleep(delay).await,
                    Again::Changed => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.link.back() => {
                    // It may be another server, or it may have lost data.
                    self.state.pushed = None;
                    self.state.there.clear();
                }
                () = self.hints.next(look) => {}
                () = pause => {}
            }
        }
    }

    async fn round(&mut self) -> anyhow::Result<Again> {
        let (mut manifest, identity) = match self.on_thread(Project::manifest).await? {
            Ok(read) => read,
            Err(error) => return self.complain(error.to_string()),
        };
        manifest.serve_as(self.arguments.model.as_deref());
        let (push, again) = self.build(&manifest, identity).await?;
        let after = match push {
            Push::Built => After::Build,
            Push::Present => After::Change,
            Push::Nothing => return Ok(again),
        };
        // Saving the manifest, even without changes, pushes again.
        if self.state.manifest.replace(identity) != Some(identity) {
            self.state.pushed = None;
        }
        let named = manifest.clone();
        let collecting = self.on_thread(move |project| project.collect(&named, after));
        match collecting.await? {
            Ok(Collected::Whole(local)) => match self.push(&manifest, &local).await? {
                Again::Changed => Ok(again),
                sooner => Ok(sooner),
            },
            Ok(Collected::BeingWritten) => Ok(Again::After(WRITING_DELAY)),
            Err(error) => self.complain(error.to_string()),
        }
    }

    /// Builds if there is a reason to. Returns what to push then, and when to start the next round.
    async fn build(
        &mut self,
        manifest: &Manifest,
        identity: Identity,
    ) -> anyhow::Result<(Push, Again)> {
        let command = manifest
            .build
            .as_deref()
            .filter(|_| !self.arguments.no_build);
        let Some(command) = command else {
            self.look(manifest, Scope::Named).await?;
            return Ok((Push::Present, Again::Changed));
        };
        let before = self.look(manifest, Scope::Sources).await?;
        let now = Instant::now();
        // After a failed build, the component is older than its sources.
        let present = match self.state.plan.has_succeeded() {
            true => Push::Present,
            false => Push::Nothing,
        };
        let cause = match self.state.plan.next(identity, &before, now) {
            Next::Build(cause) => cause,
            Next::Rest => return Ok((present, Again::Changed)),
            Next::Wait(then) => {
                return Ok((present, Again::After(then.saturating_duration_since(now))));
            }
        };
        if let Cause::Changed(paths) | Cause::During(paths) = &cause {
            let paths = paths.iter().cloned().collect();
            self.report.tell(&Event::Changed { paths })?;
        }
        self.report.tell(&Event::Building { command })?;
        self.state.complaint = None;
        let begun = Instant::now();
        let ended = match Build::start(manifest, command, Group::Own) {
            Ok(build) => build.wait().await.context("waiting for the build"),
            Err(error) => Err(error),
        };
        let took = begun.elapsed();
        let (succeeded, status) = match &ended {
            Ok(status) => (status.success(), status.to_string()),
            Err(error) => (false, format!("{error:#}")),
        };
        let built = Built {
            manifest: identity,
            before,
            after: self.look(manifest, Scope::Sources).await?,
            succeeded,
            ended: Instant::now(),
        };
        let learned = self.state.plan.built(&cause, built);
        if !learned.is_empty() {
            let paths = learned.into_iter().collect();
            self.report.tell(&Event::BuildOutput { paths })?;
        }
        self.state.build = succeeded.then_some(took);
        if succeeded {
            return Ok((Push::Built, Again::Changed));
        }
        self.report.tell(&Event::BuildFailed {
            command,
            status,
            build_ms: ms(took),
        })?;
        Ok((Push::Nothing, Again::Changed))
    }

    async fn push(&mut self, manifest: &Manifest, local: &LocalBundle) -> anyhow::Result<Again> {
        let arguments = self.arguments;
        let model = arguments.model.as_ref().unwrap_or(&manifest.name);
        let wanted = (model.clone(), local.bundle.clone());
        if self.state.pushed.as_ref() == Some(&wanted) {
            self.state.complaint = None;
            if let Some(build) = self.state.build.take() {
                let build_ms = ms(build);
                self.report.tell(&Event::AsBefore { build_ms })?;
            }
            return Ok(Again::Changed);
        }
        let reloaded = async {
            if self.state.followed.as_ref() != Some(model) {
                let follower = tail::begin(self.client, model).await?;
                self.state.followed = Some(model.clone());
                self.follow.send(follower).await.ok();
            }
            reload::reload(self.client, model, local, &self.state.there).await
        };
        match reloaded.await {
            Ok(reloaded) => {
                self.link.answers(self.report)?;
                self.link.is_up_to_date();
                self.tell(model, &reloaded)?;
                self.state.pushed = Some(wanted);
                self.state.there = local.blobs.iter().map(|blob| blob.digest).collect();
                self.state.complaint = None;
                Ok(Again::Changed)
            }
            Err(error) => self.not_pushed(wanted, error),
        }
    }

    fn not_pushed(
        &mut self,
        wanted: (String, Bundle),
        error: anyhow::Error,
    ) -> anyhow::Result<Again> {
        if let Some(why) = link::unreachable(&error) {
            self.link.lost(why, self.report)?;
            return Ok(Again::After(RETRY_DELAY));
        }
        self.link.answers(self.report)?;
        // The server may have removed the uploaded blobs when it refused the bundle.
        self.state.there.clear();
        let refused = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<ClientError>());
        let code = refused.and_then(ClientError::code);
        if code == Some(ErrorCode::ReloadInProgress) {
            return Ok(Again::After(RETRY_DELAY));
        }
        if let Some(ClientError::Refused { status, .. }) = refused
            && !self.state.is_past_first
            && [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status)
        {
            return Err(error);
        }
        // Do not push the same bundle again. A file that changed during the upload makes another bundle.
        self.state.pushed = Some(wanted);
        self.state.complaint = None;
        self.state.build = None;
        self.report.tell(&Event::Failed {
            error: format!("{error:#}"),
            error_code: code.map(|code| code.to_string()),
        })?;
        Ok(Again::Changed)
    }

    fn tell(&mut self, model: &str, reloaded: &Reloaded) -> anyhow::Result<()> {
        let (uploaded_files, uploaded_bytes) = reloaded.uploaded;
        let build = self.state.build.take();
        self.report.tell(&Event::Serving(Serving {
            status: reloaded.status,
            model,
            url: format!(
                "{}/predict",
                self.client.inference_url(model, Target::Development)
            ),
            uploaded_files,
            uploaded_bytes,
            build_ms: build.map(ms),
            upload_ms: ms(reloaded.upload),
            activation_ms: ms(reloaded.activation),
            timings: reloaded.timings.as_ref(),
        }))
    }

    /// Reports an error of the project, unless it was the last one reported. The user has to change something.
    fn complain(&mut self, error: String) -> anyhow::Result<Again> {
        let complaint = (
            error,
            self.project.as_ref().and_then(Project::manifest_identity),
        );
        if self.state.complaint.as_ref() != Some(&complaint) {
            self.report.tell(&Event::Failed {
                error: complaint.0.clone(),
                error_code: None,
            })?;
            self.state.complaint = Some(complaint);
        }
        Ok(Again::Changed)
    }

    async fn look(&mut self, manifest: &Manifest, scope: Scope) -> anyhow::Result<Snapshot> {
        let manifest = manifest.clone();
        let (found, trouble) = self
            .on_thread(move |project| {
                let found = project.look(&manifest, scope);
                (found, project.take_trouble())
            })
            .await?;
        if let Some(text) = trouble {
            self.report.tell(&Event::Note { text })?;
        }
        Ok(found)
    }

    /// Works on the project in another thread, so that Ctrl-C works while a large file is read.
    async fn on_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Project) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut project = self.project.take().context("an earlier look did not end")?;
        let working = tokio::task::spawn_blocking(move || {
            let done = work(&mut project);
            (project, done)
        });
        let (project, done) = working.await.context("looking at the files")?;
        self.project = Some(project);
        Ok(done)
    }
}
