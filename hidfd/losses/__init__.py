"""The paper's losses, as functions of tensors."""
