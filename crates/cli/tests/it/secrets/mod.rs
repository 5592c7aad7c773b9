//! Every secret that a file, an option or a variable can give has a value that is found nowhere else.
//! All that the program prints, answers and leaves behind is searched for it, with every log at
//! `trace`, in front of servers that let it in, refuse it, and repeat what they were sent.

mod crash;
mod listener;
mod spy;
mod stores;
mod web;
