//! The plan, histories of it, and the loop over a directory in memory.

mod alarms;
mod cluster;
mod desk;
mod gone;
mod histories;
mod placed;
mod plan;
mod replicas;
mod run;
mod stage;
