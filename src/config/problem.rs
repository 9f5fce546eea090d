//! What is wrong with a configuration.
#[derive(Debug, Clone)]
pub enum Origin {
    Default,
}
#[derive(Debug, Clone)]
pub struct Problem;
#[derive(Debug, Clone)]
pub struct Problems(pub Vec<Problem>);
