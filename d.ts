import type { Dashboard } from "@grafana/schema";
// A JSON file has strings where the types have string enums.
type Loose<T> = T extends string ? `${T}` : T extends (infer U)[] ? Loose<U>[] : T extends object ? { [K in keyof T]: Loose<T[K]> } : T;
const d: Loose<Dashboard> & { annotations?: { list?: { target?: { expr?: string; interval?: string } }[] } } = {
 "uid": "hotplate",
 "title": "Hotplate",
 "description": "Requests, queues, batches, texts and processes of Hotplate services.",
 "tags": [
  "hotplate",
  "inference"
 ],
 "schemaVersion": 39,
 "version": 1,
 "editable": true,
 "graphTooltip": 1,
 "fiscalYearStartMonth": 0,
 "liveNow": false,
 "weekStart": "",
 "refresh": "10s",
 "time": {
  "from": "now-30m",
  "to": "now"
 },
 "timepicker": {},
 "timezone": "browser",
 "links": [],
 "annotations": {
  "list": [
   {
    "name": "Engine restarts",
    "datasource": {
     "type": "prometheus",
     "uid": "${datasource}"
    },
    "enable": true,
    "hide": false,
    "iconColor": "red",
    "target": {
     "refId": "Anno",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "changes(hotplate_engine_restarts_total{namespace=~\"$namespace\", job=~\"$job\"}[1m]) > 0",
     "interval": "15s"
    },
    "titleFormat": "engine restarted",
    "textFormat": "{{instance}}"
   }
  ]
 },
 "templating": {
  "list": [
   {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
    "refresh": 1,
    "regex": "",
    "multi": false,
    "includeAll": false,
    "hide": 0,
    "skipUrlSync": false,
    "current": {
     "selected": false,
     "text": "default",
     "value": "default"
    },
    "options": []
   },
   {
    "name": "namespace",
    "label": "Namespace",
    "type": "query",
    "datasource": {
     "type": "prometheus",
     "uid": "${datasource}"
    },
    "query": {
     "query": "label_values(hotplate_ready, namespace)",
     "refId": "variable-namespace"
    },
    "refresh": 2,
    "regex": "",
    "sort": 1,
    "multi": false,
    "includeAll": true,
    "allValue": ".*",
    "hide": 0,
    "skipUrlSync": false,
    "current": {
     "selected": true,
     "text": "All",
     "value": "$__all"
    },
    "options": []
   },
   {
    "name": "job",
    "label": "Job",
    "type": "query",
    "datasource": {
     "type": "prometheus",
     "uid": "${datasource}"
    },
    "query": {
     "query": "label_values(hotplate_ready{namespace=~\"$namespace\"}, job)",
     "refId": "variable-job"
    },
    "refresh": 2,
    "regex": "",
    "sort": 1,
    "multi": false,
    "includeAll": true,
    "allValue": ".*",
    "hide": 0,
    "skipUrlSync": false,
    "current": {
     "selected": true,
     "text": "All",
     "value": "$__all"
    },
    "options": []
   },
   {
    "name": "model",
    "label": "Model",
    "type": "query",
    "datasource": {
     "type": "prometheus",
     "uid": "${datasource}"
    },
    "query": {
     "query": "label_values(hotplate_model_state{namespace=~\"$namespace\", job=~\"$job\"}, model)",
     "refId": "variable-model"
    },
    "refresh": 2,
    "regex": "",
    "sort": 1,
    "multi": true,
    "includeAll": true,
    "allValue": ".*",
    "hide": 0,
    "skipUrlSync": false,
    "current": {
     "selected": true,
     "text": [
      "All"
     ],
     "value": [
      "$__all"
     ]
    },
    "options": []
   }
  ]
 },
 "panels": [
  {
   "id": 1,
   "type": "row",
   "title": "Overview",
   "collapsed": false,
   "panels": [],
   "gridPos": {
    "x": 0,
    "y": 0,
    "w": 24,
    "h": 1
   }
  },
  {
   "id": 2,
   "type": "stat",
   "title": "Ready",
   "description": "Share of the scraped instances that are ready.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 1,
    "w": 3,
    "h": 4
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "avg(hotplate_ready{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "percentunit",
     "color": {
      "mode": "thresholds"
     },
     "thresholds": {
      "mode": "absolute",
      "steps": [
       {
        "color": "red",
        "value": null
       },
       {
        "color": "orange",
        "value": 0.5
       },
       {
        "color": "green",
        "value": 1
       }
      ]
     },
     "noValue": "-"
    },
    "overrides": []
   },
   "options": {
    "colorMode": "value",
    "graphMode": "none",
    "justifyMode": "auto",
    "orientation": "auto",
    "textMode": "value",
    "reduceOptions": {
     "calcs": [
      "lastNotNull"
     ],
     "fields": "",
     "values": false
    }
   }
  },
  {
   "id": 3,
   "type": "stat",
   "title": "Requests",
   "description": "Requests answered a second, probes and scrapes left out.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 3,
    "y": 1,
    "w": 3,
    "h": 4
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum(rate(hotplate_requests_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval]))",
     "legendFormat": "",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "reqps",
     "color": {
      "mode": "thresholds"
     },
     "thresholds": {
      "mode": "absolute",
      "steps": [
       {
        "color": "green",
        "value": null
       }
      ]
     },
     "noValue": "-"
    },
    "overrides": []
   },
   "options": {
    "colorMode": "value",
    "graphMode": "area",
    "justifyMode": "auto",
    "orientation": "auto",
    "textMode": "value",
    "reduceOptions": {
     "calcs": [
      "lastNotNull"
     ],
     "fields": "",
     "values": false
    }
   }
  },
  {
   "id": 4,
   "type": "stat",
   "title": "Errors",
   "description": "Share of requests that the service failed: 5xx, or gRPC's INTERNAL, UNAVAILABLE and the like.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 6,
    "y": 1,
    "w": 3,
    "h": 4
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "(sum(rate(hotplate_requests_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\", status=~\"5..|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|UNKNOWN|DATA_LOSS\"}[$__rate_interval])) or vector(0)) / sum(rate(hotplate_requests_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval]))",
     "legendFormat": "",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "percentunit",
     "color": {
      "mode": "thresholds"
     },
     "thresholds": {
      "mode": "absolute",
      "steps": [
       {
        "color": "green",
        "value": null
       },
       {
        "color": "orange",
        "value": 0.01
       },
       {
        "color": "red",
        "value": 0.05
       }
      ]
     },
     "noValue": "-",
     "decimals": 2
    },
    "overrides": []
   },
   "options": {
    "colorMode": "value",
    "graphMode": "area",
    "justifyMode": "auto",
    "orientation": "auto",
    "textMode": "value",
    "reduceOptions": {
     "calcs": [
      "lastNotNull"
     ],
     "fields": "",
     "values": false
    }
   }
  },
  {
   "id": 5,
   "type": "stat",
   "title": "Latency p50",
   "description": "Half of the requests are faster.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 9,
    "y": 1,
    "w": 3,
    "h": 4
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.5, sum by (le) (rate(hotplate_request_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval])))",
     "legendFormat": "",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "thresholds"
     },
     "thresholds": {
      "mode": "absolute",
      "steps": [
       {
        "color": "green",
        "value": null
       }
      ]
     },
     "noValue": "-",
     "decimals": 1
    },
    "overrides": []
   },
   "options": {
    "colorMode": "value",
    "graphMode": "area",
    "justifyMode": "auto",
    "orientation": "auto",
    "textMode": "value",
    "reduceOptions": {
     "calcs": [
      "lastNotNull"
     ],
     "fields": "",
     "values": false
    }
   }
  },
  {
   "id": 6,
   "type": "stat",
   "title": "Latency p99",
   "description": "One request in a hundred is slower.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 12,
    "y": 1,
    "w": 3,
    "h": 4
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.99, sum by (le) (rate(hotplate_request_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval])))",
     "legendFormat": "",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "thresholds"
     },
     "thresholds": {
      "mode": "absolute",
      "steps": [
       {
        "color": "green",
        "value": null
       }
      ]
     },
     "noValue": "-",
     "decimals": 1
    },
    "overrides": []
   },
   "options": {
    "colorMode": "value",
    "graphMode": "area",
    "justifyMode": "auto",
    "orientation": "auto",
    "textMode": "value",
    "reduceOptions": {
     "calcs": [
      "lastNotNull"
     ],
     "fields": "",
     "values": false
    }
   }
  },
  {
   "id": 7,
   "type": "stat",
   "title": "In flight",
   "description": "Requests being worked on now; the signal to scale on.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 15,
    "y": 1,
    "w": 3,
    "h": 4
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum(hotplate_requests_in_flight{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "thresholds"
     },
     "thresholds": {
      "mode": "absolute",
      "steps": [
       {
        "color": "green",
        "value": null
       }
      ]
     },
     "noValue": "-",
     "decimals": 0
    },
    "overrides": []
   },
   "options": {
    "colorMode": "value",
    "graphMode": "area",
    "justifyMode": "auto",
    "orientation": "auto",
    "textMode": "value",
    "reduceOptions": {
     "calcs": [
      "lastNotNull"
     ],
     "fields": "",
     "values": false
    }
   }
  },
  {
   "id": 8,
   "type": "stat",
   "title": "Tokens",
   "description": "Tokens generated a second.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 18,
    "y": 1,
    "w": 3,
    "h": 4
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum(rate(hotplate_generated_tokens_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "thresholds"
     },
     "thresholds": {
      "mode": "absolute",
      "steps": [
       {
        "color": "green",
        "value": null
       }
      ]
     },
     "noValue": "-",
     "decimals": 0
    },
    "overrides": []
   },
   "options": {
    "colorMode": "value",
    "graphMode": "area",
    "justifyMode": "auto",
    "orientation": "auto",
    "textMode": "value",
    "reduceOptions": {
     "calcs": [
      "lastNotNull"
     ],
     "fields": "",
     "values": false
    }
   }
  },
  {
   "id": 9,
   "type": "stat",
   "title": "Engine restarts",
   "description": "Engine processes that died within the time shown.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 21,
    "y": 1,
    "w": 3,
    "h": 4
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum(increase(hotplate_engine_restarts_total{namespace=~\"$namespace\", job=~\"$job\"}[$__range]))",
     "legendFormat": "",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "thresholds"
     },
     "thresholds": {
      "mode": "absolute",
      "steps": [
       {
        "color": "green",
        "value": null
       },
       {
        "color": "red",
        "value": 1
       }
      ]
     },
     "noValue": "-",
     "decimals": 0
    },
    "overrides": []
   },
   "options": {
    "colorMode": "value",
    "graphMode": "none",
    "justifyMode": "auto",
    "orientation": "auto",
    "textMode": "value",
    "reduceOptions": {
     "calcs": [
      "lastNotNull"
     ],
     "fields": "",
     "values": false
    }
   }
  },
  {
   "id": 10,
   "type": "row",
   "title": "Requests",
   "collapsed": false,
   "panels": [],
   "gridPos": {
    "x": 0,
    "y": 5,
    "w": 24,
    "h": 1
   }
  },
  {
   "id": 11,
   "type": "timeseries",
   "title": "Latency",
   "description": "From a request's head to the last byte of its answer.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 6,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.5, sum by (le) (rate(hotplate_request_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval])))",
     "legendFormat": "p50",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.9, sum by (le) (rate(hotplate_request_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval])))",
     "legendFormat": "p90",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "C",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.95, sum by (le) (rate(hotplate_request_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval])))",
     "legendFormat": "p95",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "D",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.99, sum by (le) (rate(hotplate_request_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval])))",
     "legendFormat": "p99",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 12,
   "type": "timeseries",
   "title": "Requests by model",
   "description": "Requests answered a second.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 6,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (rate(hotplate_requests_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval]))",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "reqps",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 30,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "normal",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 13,
   "type": "timeseries",
   "title": "Answers by status",
   "description": "HTTP statuses, and gRPC's by name.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 6,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (status) (rate(hotplate_requests_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval]))",
     "legendFormat": "{{status}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "reqps",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 30,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "normal",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 14,
   "type": "timeseries",
   "title": "Latency p95 by model",
   "description": "One request in twenty is slower.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 14,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.95, sum by (le, model) (rate(hotplate_request_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval])))",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 15,
   "type": "timeseries",
   "title": "Error ratio by model",
   "description": "Share of requests that the service failed.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 14,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "(sum by (model) (rate(hotplate_requests_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\", status=~\"5..|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|UNKNOWN|DATA_LOSS\"}[$__rate_interval])) or 0 * sum by (model) (rate(hotplate_requests_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval]))) / sum by (model) (rate(hotplate_requests_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval]))",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "percentunit",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0,
     "max": 1
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 16,
   "type": "timeseries",
   "title": "Refusals and failures in the engine",
   "description": "By reason: a full queue, a deadline that cannot be met or has passed, a caller who left, a failed computation.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 14,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model, reason) (rate(hotplate_failures_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}} {{reason}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "reqps",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 30,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "normal",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 17,
   "type": "heatmap",
   "title": "Latency, all of it",
   "description": "Requests a second in each bucket of latency.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 22,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (le) (increase(hotplate_request_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\", route!~\"/livez|/readyz|/metrics|/v2/health/.*|ServerLive|ServerReady|Check\"}[$__rate_interval]))",
     "legendFormat": "{{le}}",
     "format": "heatmap",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "custom": {
      "scaleDistribution": {
       "type": "linear"
      },
      "hideFrom": {
       "legend": false,
       "tooltip": false,
       "viz": false
      }
     }
    },
    "overrides": []
   },
   "options": {
    "calculate": false,
    "yAxis": {
     "axisPlacement": "left",
     "unit": "s"
    },
    "cellGap": 1,
    "color": {
     "mode": "scheme",
     "scheme": "Oranges",
     "steps": 64,
     "exponent": 0.5,
     "fill": "dark-orange",
     "reverse": false,
     "scale": "exponential"
    },
    "legend": {
     "show": true
    },
    "tooltip": {
     "mode": "single",
     "yHistogram": false
    },
    "exemplars": {
     "color": "rgba(255,0,255,0.7)"
    },
    "rowsFrame": {
     "layout": "auto"
    },
    "filterValues": {
     "le": 1e-09
    },
    "showValue": "never"
   }
  },
  {
   "id": 18,
   "type": "timeseries",
   "title": "In flight by instance",
   "description": "Requests being worked on.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 22,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (instance) (hotplate_requests_in_flight{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "{{instance}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 30,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "normal",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 19,
   "type": "timeseries",
   "title": "Bytes",
   "description": "Bodies received and sent.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 22,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum(rate(hotplate_request_bytes_total{namespace=~\"$namespace\", job=~\"$job\"}[$__rate_interval]))",
     "legendFormat": "received",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum(rate(hotplate_response_bytes_total{namespace=~\"$namespace\", job=~\"$job\"}[$__rate_interval]))",
     "legendFormat": "sent",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "Bps",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 20,
   "type": "row",
   "title": "Queue and batches",
   "collapsed": false,
   "panels": [],
   "gridPos": {
    "x": 0,
    "y": 30,
    "w": 24,
    "h": 1
   }
  },
  {
   "id": 21,
   "type": "timeseries",
   "title": "Time in the queue",
   "description": "From a request's arrival at the engine to the start of its first batch; of a text, to its slot.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 31,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.5, sum by (le) (rate(hotplate_queue_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p50",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.9, sum by (le) (rate(hotplate_queue_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p90",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "C",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.95, sum by (le) (rate(hotplate_queue_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p95",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "D",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.99, sum by (le) (rate(hotplate_queue_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p99",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 22,
   "type": "timeseries",
   "title": "Time in the queue p95 by model",
   "description": "One request in twenty waits longer.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 31,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.95, sum by (le, model) (rate(hotplate_queue_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 23,
   "type": "timeseries",
   "title": "Rows waiting, of those that may",
   "description": "At 1, further requests are refused with 503.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 31,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (hotplate_queue_depth{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}) / max by (model) (hotplate_max_queue_rows{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"})",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "percentunit",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 24,
   "type": "timeseries",
   "title": "Mean batch size",
   "description": "Rows in a batch.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 39,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (rate(hotplate_batch_size_sum{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])) / sum by (model) (rate(hotplate_batch_size_count{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 25,
   "type": "heatmap",
   "title": "Batch sizes",
   "description": "Batches in each bucket of size.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 39,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (le) (increase(hotplate_batch_size_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{le}}",
     "format": "heatmap",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "custom": {
      "scaleDistribution": {
       "type": "linear"
      },
      "hideFrom": {
       "legend": false,
       "tooltip": false,
       "viz": false
      }
     }
    },
    "overrides": []
   },
   "options": {
    "calculate": false,
    "yAxis": {
     "axisPlacement": "left",
     "unit": "short"
    },
    "cellGap": 1,
    "color": {
     "mode": "scheme",
     "scheme": "Oranges",
     "steps": 64,
     "exponent": 0.5,
     "fill": "dark-orange",
     "reverse": false,
     "scale": "exponential"
    },
    "legend": {
     "show": true
    },
    "tooltip": {
     "mode": "single",
     "yHistogram": false
    },
    "exemplars": {
     "color": "rgba(255,0,255,0.7)"
    },
    "rowsFrame": {
     "layout": "auto"
    },
    "filterValues": {
     "le": 1e-09
    },
    "showValue": "never"
   }
  },
  {
   "id": 26,
   "type": "timeseries",
   "title": "Rows computed",
   "description": "Rows a second.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 39,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (rate(hotplate_rows_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 30,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "normal",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 27,
   "type": "timeseries",
   "title": "Time to compute a batch, mean",
   "description": "By graph of a model.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 47,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model, graph) (rate(hotplate_compute_seconds_sum{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])) / sum by (model, graph) (rate(hotplate_compute_seconds_count{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}} {{graph}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 28,
   "type": "timeseries",
   "title": "Time to compute a batch",
   "description": "All models together.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 47,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.5, sum by (le) (rate(hotplate_compute_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p50",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.9, sum by (le) (rate(hotplate_compute_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p90",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "C",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.95, sum by (le) (rate(hotplate_compute_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p95",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "D",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.99, sum by (le) (rate(hotplate_compute_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p99",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 29,
   "type": "timeseries",
   "title": "Pictures",
   "description": "Time to decode one and to encode painted or drawn ones, mean.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 47,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum(rate(hotplate_decode_seconds_sum{namespace=~\"$namespace\", job=~\"$job\"}[$__rate_interval])) / sum(rate(hotplate_decode_seconds_count{namespace=~\"$namespace\", job=~\"$job\"}[$__rate_interval]))",
     "legendFormat": "decode",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum(rate(hotplate_encode_seconds_sum{namespace=~\"$namespace\", job=~\"$job\"}[$__rate_interval])) / sum(rate(hotplate_encode_seconds_count{namespace=~\"$namespace\", job=~\"$job\"}[$__rate_interval]))",
     "legendFormat": "encode",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 30,
   "type": "row",
   "title": "Text generation",
   "collapsed": false,
   "panels": [],
   "gridPos": {
    "x": 0,
    "y": 55,
    "w": 24,
    "h": 1
   }
  },
  {
   "id": 31,
   "type": "timeseries",
   "title": "Tokens",
   "description": "Tokens a second: generated, and those of admitted prompts.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 56,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (rate(hotplate_generated_tokens_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}} generated",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (rate(hotplate_prompt_tokens_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}} prompts",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 32,
   "type": "timeseries",
   "title": "Time to first token",
   "description": "From a prompt's arrival at the engine.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 56,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.5, sum by (le) (rate(hotplate_time_to_first_token_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p50",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.9, sum by (le) (rate(hotplate_time_to_first_token_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p90",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "C",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.95, sum by (le) (rate(hotplate_time_to_first_token_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p95",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "D",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.99, sum by (le) (rate(hotplate_time_to_first_token_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p99",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 33,
   "type": "timeseries",
   "title": "Time between tokens",
   "description": "Of one text.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 56,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.5, sum by (le) (rate(hotplate_inter_token_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p50",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.9, sum by (le) (rate(hotplate_inter_token_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p90",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "C",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.95, sum by (le) (rate(hotplate_inter_token_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p95",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "D",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.99, sum by (le) (rate(hotplate_inter_token_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p99",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 34,
   "type": "timeseries",
   "title": "Texts",
   "description": "Running and waiting, of the slots and places there are.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 64,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (hotplate_sequences_running{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"})",
     "legendFormat": "{{model}} running",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (hotplate_sequences_waiting{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"})",
     "legendFormat": "{{model}} waiting",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "C",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (hotplate_max_sequences{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"})",
     "legendFormat": "{{model}} slots",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "D",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (hotplate_max_waiting_sequences{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"})",
     "legendFormat": "{{model}} places",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": [
     {
      "matcher": {
       "id": "byRegexp",
       "options": ".* (slots|places)"
      },
      "properties": [
       {
        "id": "custom.lineStyle",
        "value": {
         "fill": "dash",
         "dash": [
          10,
          10
         ]
        }
       },
       {
        "id": "custom.fillOpacity",
        "value": 0
       }
      ]
     }
    ]
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 35,
   "type": "timeseries",
   "title": "Texts in a step",
   "description": "Texts that one step continued, and prompt tokens that it computed, mean.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 64,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (rate(hotplate_step_sequences_sum{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])) / sum by (model) (rate(hotplate_step_sequences_count{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}} texts",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (rate(hotplate_step_prefill_tokens_sum{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])) / sum by (model) (rate(hotplate_step_prefill_tokens_count{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}} prompt tokens",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 36,
   "type": "timeseries",
   "title": "Time of a step",
   "description": "Prompts, one token of every text, sampling.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 64,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.5, sum by (le) (rate(hotplate_step_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p50",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.9, sum by (le) (rate(hotplate_step_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p90",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "C",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.95, sum by (le) (rate(hotplate_step_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p95",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "D",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "histogram_quantile(0.99, sum by (le) (rate(hotplate_step_seconds_bucket{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])))",
     "legendFormat": "p99",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "s",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 37,
   "type": "timeseries",
   "title": "Slots' memory in use",
   "description": "Tokens of running texts, of all that the slots can hold.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 72,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "max by (model) (hotplate_cache_used_ratio{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"})",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "percentunit",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0,
     "max": 1
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 38,
   "type": "timeseries",
   "title": "Prompt tokens found",
   "description": "Share of prompt tokens that a slot's state held already.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 72,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model) (rate(hotplate_prefix_hit_tokens_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval])) / sum by (model) (rate(hotplate_prefix_query_tokens_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "percentunit",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0,
     "max": 1
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 39,
   "type": "timeseries",
   "title": "Ends",
   "description": "Texts that ended, by reason.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 72,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model, reason) (rate(hotplate_finished_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"}[$__rate_interval]))",
     "legendFormat": "{{model}} {{reason}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "reqps",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 30,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "normal",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 40,
   "type": "row",
   "title": "Processes and models",
   "collapsed": false,
   "panels": [],
   "gridPos": {
    "x": 0,
    "y": 80,
    "w": 24,
    "h": 1
   }
  },
  {
   "id": 41,
   "type": "table",
   "title": "Models",
   "description": "Versions and the state that they are in.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 81,
    "w": 6,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "count by (model, version, state) (hotplate_model_state{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"} == 1)",
     "legendFormat": "",
     "format": "table",
     "range": false,
     "instant": true
    }
   ],
   "fieldConfig": {
    "defaults": {
     "custom": {
      "align": "auto"
     }
    },
    "overrides": [
     {
      "matcher": {
       "id": "byName",
       "options": "state"
      },
      "properties": [
       {
        "id": "mappings",
        "value": [
         {
          "type": "value",
          "options": {
           "ready": {
            "color": "green",
            "index": 0
           },
           "failed": {
            "color": "red",
            "index": 1
           },
           "unavailable": {
            "color": "orange",
            "index": 2
           }
          }
         }
        ]
       },
       {
        "id": "custom.cellOptions",
        "value": {
         "type": "color-text"
        }
       }
      ]
     }
    ]
   },
   "options": {
    "showHeader": true,
    "cellHeight": "sm",
    "sortBy": [
     {
      "displayName": "model",
      "desc": false
     }
    ]
   },
   "transformations": [
    {
     "id": "organize",
     "options": {
      "excludeByName": {
       "Time": true
      },
      "renameByName": {
       "Value": "instances"
      },
      "indexByName": {
       "model": 0,
       "version": 1,
       "state": 2,
       "Value": 3
      }
     }
    }
   ]
  },
  {
   "id": 42,
   "type": "timeseries",
   "title": "Engine restarts",
   "description": "Engine processes that died and were replaced, within an hour.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 6,
    "y": 81,
    "w": 6,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (instance) (increase(hotplate_engine_restarts_total{namespace=~\"$namespace\", job=~\"$job\"}[1h]))",
     "legendFormat": "{{instance}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 43,
   "type": "timeseries",
   "title": "Ready",
   "description": "1 where an instance is ready.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 12,
    "y": 81,
    "w": 6,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "min by (instance) (hotplate_ready{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "{{instance}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0,
     "max": 1
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 44,
   "type": "timeseries",
   "title": "Rejected versions",
   "description": "Versions that were rejected when they were loaded, since the start.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 18,
    "y": 81,
    "w": 6,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (model, version) (hotplate_load_failures_total{namespace=~\"$namespace\", job=~\"$job\", model=~\"$model\"})",
     "legendFormat": "{{model}}@{{version}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "short",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 45,
   "type": "timeseries",
   "title": "Resident memory",
   "description": "Summed over the processes of a kind.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 89,
    "w": 24,
    "h": 7
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "sum by (process) (hotplate_process_resident_bytes{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "{{process}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "bytes",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 30,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "normal",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 46,
   "type": "row",
   "title": "GPU",
   "collapsed": false,
   "panels": [],
   "gridPos": {
    "x": 0,
    "y": 96,
    "w": 24,
    "h": 1
   }
  },
  {
   "id": 47,
   "type": "timeseries",
   "title": "Utilisation",
   "description": "Share of time in which the GPU computed, by any program. Empty without a GPU.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 0,
    "y": 97,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "max by (instance, gpu) (hotplate_gpu_utilization_ratio{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "{{instance}} gpu {{gpu}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "percentunit",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0,
     "max": 1
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 48,
   "type": "timeseries",
   "title": "Memory",
   "description": "In use by any program, of what there is. Empty without a GPU.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 8,
    "y": 97,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "max by (instance, gpu) (hotplate_gpu_memory_used_bytes{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "{{instance}} gpu {{gpu}} used",
     "format": "time_series",
     "range": true,
     "instant": false
    },
    {
     "refId": "B",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "max by (instance, gpu) (hotplate_gpu_memory_bytes{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "{{instance}} gpu {{gpu}} there",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "bytes",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": [
     {
      "matcher": {
       "id": "byRegexp",
       "options": ".* there"
      },
      "properties": [
       {
        "id": "custom.lineStyle",
        "value": {
         "fill": "dash",
         "dash": [
          10,
          10
         ]
        }
       },
       {
        "id": "custom.fillOpacity",
        "value": 0
       }
      ]
     }
    ]
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  },
  {
   "id": 49,
   "type": "timeseries",
   "title": "Power",
   "description": "Empty without a GPU.",
   "datasource": {
    "type": "prometheus",
    "uid": "${datasource}"
   },
   "gridPos": {
    "x": 16,
    "y": 97,
    "w": 8,
    "h": 8
   },
   "targets": [
    {
     "refId": "A",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "expr": "max by (instance, gpu) (hotplate_gpu_power_watts{namespace=~\"$namespace\", job=~\"$job\"})",
     "legendFormat": "{{instance}} gpu {{gpu}}",
     "format": "time_series",
     "range": true,
     "instant": false
    }
   ],
   "fieldConfig": {
    "defaults": {
     "unit": "watt",
     "color": {
      "mode": "palette-classic"
     },
     "custom": {
      "drawStyle": "line",
      "lineInterpolation": "linear",
      "lineWidth": 1,
      "fillOpacity": 10,
      "showPoints": "never",
      "spanNulls": false,
      "stacking": {
       "mode": "none",
       "group": "A"
      },
      "axisPlacement": "auto",
      "axisLabel": ""
     },
     "min": 0
    },
    "overrides": []
   },
   "options": {
    "legend": {
     "displayMode": "table",
     "placement": "bottom",
     "showLegend": true,
     "calcs": [
      "lastNotNull",
      "max"
     ]
    },
    "tooltip": {
     "mode": "multi",
     "sort": "desc"
    }
   }
  }
 ]
}
;
export default d;
