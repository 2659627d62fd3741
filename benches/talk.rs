//! A process of this crate that does something by itself and says what came of it, a line at a time.

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// This program, started again with other arguments. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Talk {
    pub(crate) fn start<A: Into<OsString>>(arguments: impl IntoIterator<Item = A>) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments.into_iter().map(Into::into));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| io::Error::other("the process has no output"))?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says, without its end.
    ///
    /// # Errors
    /// With its words where it has ended.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let mut words = String::new();
            if let Some(errors) = &mut self.child.stderr {
                errors.read_to_string(&mut words)?;
            }
            return Err(io::Error::other(format!("the process has ended: {}", words.trim())));
        }
        Ok(line.trim_end().to_owned())
    }

    /// Has it go on where it waits for a line.
    pub(crate) fn go_on(&mut self) -> io::Result<()> {
        self.input.as_mut().map_or(Ok(()), |input| writeln!(input))
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
