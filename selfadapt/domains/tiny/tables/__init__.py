"""The tiny world of tables: rules that an instruction can state, and tables of more facts than a prompt may have."""
