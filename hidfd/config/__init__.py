"""What a trial is: every setting, and the YAML file that it comes from. Torch-free."""
