"""The commands that people type first; `rts` has them all. Thin: what they do is in the packages beside this one."""
