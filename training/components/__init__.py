"""Components: what fills each slot of a template. One module per component, each calling one op of smt.kernels."""
