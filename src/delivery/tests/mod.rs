mod desk;
mod gone;
mod histories;
mod plan;
mod run;
mod stage;
