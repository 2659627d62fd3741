//! Where in an object something stands: a path that costs nothing until it has to be shown.

use std::fmt;

use crate::Severity;

/// A field of an object, such as `spec.ports[0].name`: a list on the stack, each step pointing to the one before.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

/// One step into an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The object itself.
    Root,
    /// Into a map.
    Key(&'a str),
    /// Into a list.
    Index(usize),
}

/// Takes what a translation finds wrong with an object.
pub type Complain<'c> = dyn FnMut(Severity, &Field<'_>, String) + 'c;

impl Field<'static> {
    /// The object itself.
    pub const ROOT: Self = Field { parent: None, step: Step::Root };
}

impl<'a> Field<'a> {
    /// A key of this map.
    pub fn key(&'a self, key: &'a str) -> Field<'a> {
        Field { parent: Some(self), step: Step::Key(key) }
    }

    /// An item of this list.
    pub fn index(&'a self, index: usize) -> Field<'a> {
        Field { parent: Some(self), step: Step::Index(index) }
    }

    /// The steps from the object to this field.
    pub fn steps(&self) -> Vec<Step<'a>> {
        let mut steps = self.parent.map_or_else(Vec::new, |parent| parent.steps());
        if self.step != Step::Root {
            steps.push(self.step);
        }
        steps
    }
}

/// A key that would be mistaken for a path is shown in brackets: `labels["aquifer.dev/mesh"]`.
impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_parent = self.parent.is_some_and(|parent| parent.step != Step::Root);
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if key.contains(['.', '[', '"']) => write!(f, "[{key:?}]"),
            Step::Key(key) if has_parent => write!(f, ".{key}"),
            Step::Key(key) => f.write_str(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_shown_as_a_person_writes_it() {
        let metadata = Field::ROOT.key("metadata");
        let labels = metadata.key("labels");
        assert_eq!(labels.key("aquifer.dev/mesh").to_string(), r#"metadata.labels["aquifer.dev/mesh"]"#);
        let items = Field::ROOT.key("items");
        assert_eq!(items.index(3).key("spec").to_string(), "items[3].spec");
        assert_eq!(Field::ROOT.to_string(), "");
    }
}
