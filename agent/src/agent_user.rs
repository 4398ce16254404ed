//! The user that the agent runs as, and what it can't read: root, who sets a gateway up, can read everything and
//! doesn't see it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config;

/// Its name (sysusers.d/fieldmedic.conf).
pub(crate) const AGENT_USER: &str = "fieldmedic";
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Where its configuration is.
const CONFIGURATION: &str = "/etc/fieldmedic";
/// Where its secrets are meant to lie (tmpfiles.d/fieldmedic.conf).
const SECRETS: &str = "/etc/fieldmedic/secrets";
/// acl(5), as Linux stores it.
const ACL: &str = "system.posix_acl_access";

/// A user of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// Its own group.
    pub(crate) gid: u32,
}

/// The agent's user, by passwd(5): a static one is in it. `None`: there is none.
pub(crate) fn agent_user() -> Option<User> {
    let passwd = config::read_text(Path::new(PASSWD)).ok()?;
    let line = passwd.lines().find_map(|line| line.strip_prefix(AGENT_USER)?.strip_prefix(':'))?;
    let mut fields = line.split(':').skip(1);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// The same where this is root, who reads what it can't, and can give files to it.
pub(crate) fn agent_user_for_root() -> Option<User> {
    rustix::process::geteuid().is_root().then(agent_user).flatten()
}

impl User {
    /// What keeps it from reading a secret, and how to mend that. `None` if nothing does, or if it can't be told.
    pub(crate) fn barred_from(self, file: &Path) -> Option<String> {
        self.barred(file, |found, barred| {
            if found.is_dir() {
                format!("{} doesn't let it in: keep the file in {SECRETS}", barred.display())
            } else {
                self.to_keep_private(found, barred)
            }
        })
    }

    /// The same of a file that everybody may read.
    pub(crate) fn barred_from_public(self, file: &Path) -> Option<String> {
        self.barred(file, |found, barred| {
            let shown = barred.display();
            if !found.is_dir() {
                return format!("chmod a+r {shown}");
            }
            // Of others, such as root's home, it is somebody's wish.
            if barred == Path::new(CONFIGURATION) {
                return format!("chmod a+rx {shown}");
            }
            format!("{shown} doesn't let it in: keep the file in {CONFIGURATION}")
        })
    }

    fn barred(self, file: &Path, advice: impl FnOnce(&Metadata, &Path) -> String) -> Option<String> {
        let barred = self.bars(file, &self.groups())?;
        let advice = advice(&fs::metadata(&barred).ok()?, &barred);
        Some(format!("the agent, as user {AGENT_USER}, can't read {}: {advice}", file.display()))
    }

    /// What to do so that a file is the owner's, and for the agent to read, and nobody else's.
    pub(crate) fn to_keep_private(self, found: &Metadata, path: &Path) -> String {
        let path = path.display();
        let is_readable = found.uid() == self.uid || found.gid() == self.gid;
        if is_readable || found.uid() != 0 {
            return format!("chmod 0640 {path}");
        }
        format!("chgrp {AGENT_USER} {path} && chmod 0640 {path}")
    }

    /// The file itself or a directory above it.
    fn bars(self, file: &Path, groups: &[u32]) -> Option<PathBuf> {
        let real = fs::canonicalize(file).ok()?;
        let has_acl = |path: &Path| rustix::fs::getxattr(path, ACL, &mut [0_u8; 0][..]).is_ok_and(|bytes| bytes > 0);
        let barred = real
            .ancestors()
            .find(|path| fs::metadata(path).is_ok_and(|found| !self.is_let_in(&found, groups)))
            .map(Path::to_owned)?;
        // Its mode doesn't say then who is let in: as of what systemd hands over.
        (!has_acl(&barred)).then_some(barred)
    }

    /// Whether it may read a file, or pass through a directory.
    fn is_let_in(self, found: &Metadata, groups: &[u32]) -> bool {
        let needed = if found.is_dir() { 0o1 } else { 0o4 };
        let shift = match (found.uid() == self.uid, found.gid() == self.gid || groups.contains(&found.gid())) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        found.mode() >> shift & needed != 0
    }

    /// Those that it was put into, by group(5), as into Debian's ssl-cert.
    fn groups(self) -> Vec<u32> {
        let text = config::read_text(Path::new(GROUP)).unwrap_or_default();
        let group = |line: &str| {
            let mut fields = line.split(':').skip(2);
            let gid = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|member| member == AGENT_USER).then_some(gid)
        };
        text.lines().filter_map(group).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const STRANGER: User = User { uid: 4_000_000, gid: 4_000_001 };

    #[test]
    fn a_file_that_its_mode_or_a_directory_above_keeps_from_a_user_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let below = dir.path().join("secrets");
        fs::create_dir(&below).unwrap();
        let file = tempfile::NamedTempFile::new_in(&below).unwrap();
        let file = file.path();
        let seen = |dir_mode, file_mode| {
            fs::set_permissions(&below, Permissions::from_mode(dir_mode)).unwrap();
            fs::set_permissions(file, Permissions::from_mode(file_mode)).unwrap();
            STRANGER.bars(file, &[])
        };
        assert_eq!(seen(0o755, 0o644), None);
        assert_eq!(seen(0o755, 0o640), Some(file.canonicalize().unwrap()));
        let told = STRANGER.barred_from(file).unwrap();
        assert!(told.contains("can't read") && told.contains("chmod 0640 "), "{told}");
        let told = STRANGER.barred_from_public(file).unwrap();
        assert!(told.ends_with(&format!(": chmod a+r {}", file.canonicalize().unwrap().display())), "{told}");
        assert_eq!(STRANGER.bars(file, &[fs::metadata(file).unwrap().gid()]), None, "it was put into the group");
        assert_eq!(seen(0o750, 0o644), Some(below.canonicalize().unwrap()));
        let told = STRANGER.barred_from(file).unwrap();
        assert!(told.ends_with("doesn't let it in: keep the file in /etc/fieldmedic/secrets"), "{told}");
        let told = STRANGER.barred_from_public(file).unwrap();
        assert!(told.ends_with("doesn't let it in: keep the file in /etc/fieldmedic"), "{told}");
        let owner = User { uid: fs::metadata(file).unwrap().uid(), gid: 4_000_001 };
        assert_eq!((seen(0o700, 0o600), owner.bars(file, &[])), (Some(file.canonicalize().unwrap()), None));
    }

    #[test]
    fn what_is_roots_alone_is_to_be_the_agents_group_s_too_before_it_is_closed_to_others() {
        let path = Path::new("/etc/passwd");
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.uid(), found.gid()), (0, 0), "root's on every machine");
        let expected = "chgrp fieldmedic /etc/passwd && chmod 0640 /etc/passwd";
        assert_eq!(STRANGER.to_keep_private(&found, path), expected);
        let member = User { gid: 0, ..STRANGER };
        assert_eq!(member.to_keep_private(&found, path), "chmod 0640 /etc/passwd");
    }
}
