//! Paths once more, now that links can be resolved.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use mamos_core::whitelist::{Denial, DenialCode, PathArgument, Permit};

/// Do all path arguments lie under one of their roots, once every link is followed?
///
/// A path that does not exist yet is judged by the directory that would hold it. Between this check and
/// the program's own use someone who may write below the root could exchange a directory for a link; do
/// not name a root in which people write whom you would not let choose the path.
pub(super) fn check(permit: &Permit) -> Result<(), Denial> {
    permit.paths.iter().try_for_each(|path| check_one(permit, path))
}

fn check_one(permit: &Permit, path: &PathArgument) -> Result<(), Denial> {
    let argument = permit.arguments.get(path.index).and_then(|argument| argument.get(path.offset..));
    let Some(argument) = argument else {
        return Err(refuse(&format!("argument {}", path.index), "is not in the permit"));
    };
    let resolved = resolve(Path::new(argument)).map_err(|why| refuse(argument, &why))?;
    let is_inside = |root: &PathBuf| root.canonicalize().is_ok_and(|root| resolved.starts_with(root));
    if path.roots.iter().any(is_inside) {
        return Ok(());
    }
    Err(refuse(argument, "leads out of its roots through a link, or no root exists on this machine"))
}

fn resolve(path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err("is not an absolute path".to_owned());
    }
    match path.canonicalize() {
        Ok(resolved) => Ok(resolved),
        // A link to nothing exists too: the program could create what it points to.
        Err(error) if error.kind() == ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err("does not exist".to_owned());
            };
            let parent = parent.canonicalize().map_err(|_| "is in a directory that does not exist")?;
            Ok(parent.join(name))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err("is a link that leads nowhere".to_owned()),
        Err(error) => Err(format!("cannot be resolved: {error}")),
    }
}

fn refuse(value: &str, why: &str) -> Denial {
    let value: String = value.chars().take(64).collect();
    Denial::new(DenialCode::BadValue, format!("the path {value:?} {why}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_must_lie_under_its_root_once_links_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        for name in ["root/sub", "outside"] {
            std::fs::create_dir_all(base.join(name)).unwrap();
        }
        std::fs::write(base.join("outside/secret"), "").unwrap();
        symlink(base.join("outside"), base.join("root/out")).unwrap();
        symlink("../outside/secret", base.join("root/sub/secret")).unwrap();
        symlink(base.join("root/sub"), base.join("root/in")).unwrap();
        symlink("../outside/new", base.join("root/dangling")).unwrap();
        symlink("loop", base.join("root/loop")).unwrap();
        symlink(base.join("root"), base.join("alias")).unwrap();
        let judge = |root: &str, path: &str| {
            let permit = Permit {
                command: mamos_core::CommandId::new("c").unwrap(),
                program: "/x".into(),
                arguments: vec![format!("--file={}", base.join(path).display())],
                paths: vec![PathArgument { index: 0, offset: 7, roots: vec![base.join(root)] }],
                environment: Default::default(),
                working_directory: "/".into(),
                timeout: Default::default(),
                output_cap_bytes: 0,
            };
            check(&permit).is_ok()
        };
        for path in ["root", "root/sub", "root/in", "root/new", "root/sub/new", "root/in/new", "alias/sub"] {
            assert!(judge("root", path), "{path}");
            assert!(judge("alias", path), "{path}");
        }
        for path in [
            "outside/secret",
            "root/out",
            "root/out/secret",
            "root/out/new",
            "root/sub/secret",
            "root/dangling",
            "root/loop",
            "root/loop/x",
            "root/missing/new",
            "root/../outside",
            "rootless",
        ] {
            assert!(!judge("root", path), "{path}");
        }
        assert!(!judge("no-such-root", "root/sub"));
    }
}
