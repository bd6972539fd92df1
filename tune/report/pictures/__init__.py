"""Pictures of a study: panels of its page, figures of the search as PNGs and for Plotly, samples of its generators."""
