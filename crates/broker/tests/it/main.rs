mod client;
mod fuzz;
mod hostile;
mod kcat;
mod python;
mod requests;
mod server;
mod versions;
