//! A case that is known by its name, in a suite that others have written down too.

/// Says PASS or FAIL with the case's name when it goes out of scope.
pub struct Case {
    name: String,
}

impl Case {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let verdict = if std::thread::panicking() { "FAIL" } else { "PASS" };
        println!("{verdict}  {}", self.name);
    }
}
