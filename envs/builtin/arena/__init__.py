"""The batch engine of games for two teams: struct-of-arrays state, one compiled loop over environments and agents."""
