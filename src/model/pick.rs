//! Which endpoint of a Service takes a call, prepared so that a choice scans nothing.
