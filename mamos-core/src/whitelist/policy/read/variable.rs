//! Which variables a command may be given.

use crate::id::MAX_NAME_BYTES;

/// Why a variable may not be set, if so.
pub(super) fn refused_variable(name: &str) -> Option<&'static str> {
    const LOADERS: &[&str] = &[
        "BASH_ENV",
        "ENV",
        "SHELLOPTS",
        "BASHOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "IFS",
        "PYTHONSTARTUP",
        "PYTHONPATH",
        "PYTHONHOME",
        "PERL5OPT",
        "PERL5LIB",
        "PERL5DB",
        "RUBYOPT",
        "RUBYLIB",
        "NODE_OPTIONS",
        "NODE_PATH",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "LUA_INIT",
        "GCONV_PATH",
        "PAGER",
        "EDITOR",
        "VISUAL",
        "BROWSER",
        "TAR_OPTIONS",
        "LESSOPEN",
        "LESSCLOSE",
        "GLIBC_TUNABLES",
        "HOSTALIASES",
        "LOCPATH",
        "NLSPATH",
    ];
    let mut bytes = name.bytes();
    let is_name = bytes.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_')
        && name.len() <= MAX_NAME_BYTES;
    if !is_name {
        Some("no name of a variable; use letters, digits and _, and begin with none of the digits")
    } else if name == "TRACEPARENT" {
        Some("the agent sets this one itself, to the trace context of the job")
    } else if name.starts_with("LD_")
        || name.starts_with("DYLD_")
        || name.starts_with("GIT_")
        || LOADERS.contains(&name)
    {
        Some("this variable can make programs load or run other code; remove it")
    } else {
        None
    }
}
