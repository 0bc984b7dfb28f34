-- Shared by post, void and expire: how a hold ends, once.

local function posted_reply(hold, account, replayed)
  local reply = {'ended', hold[STATE], hold[POSTED], hold[SHORTFALL], account and account.available or 0, replayed}
  for _, part in ipairs(hold[SPLIT]) do reply[#reply + 1] = part end
  return reply
end

-- Take `extra` from what is available, straight to posted; `paid` collects what each pocket gave.
local function take(account, paid, extra)
  account.available = account.available - extra
  account.posted = account.posted + extra
  for i, pocket in ipairs(account.pockets or {}) do
    local part = math.min(pocket.available, extra)
    pocket.available = pocket.available - part
    pocket.posted = pocket.posted + part
    paid[i] = (paid[i] or 0) + part
    extra = extra - part
  end
end

-- What a budget's window comes to with what it has used: the thresholds that are due, each once a window, and whether the
-- budget pauses. It reads all that telling needs, and so belongs before the first write.
local function weigh_thresholds(counter, now)
  if counter.measure ~= 'm' or not counter.detail or counter.gone then return end
  local exceed, org, alerts = scope_detail(counter.detail)
  local limit, state = counter.limit, 'active'
  if counter.budget ~= '' then limit, state = limit_of(counter.budget, counter.limit, now) end
  if not limit or limit >= EXACT then return end
  local fired, due = counter.alerted, nil
  for pct in string.gmatch(alerts, '%d+') do
    if counter.used * 100 >= tonumber(pct) * limit and not find(' ' .. fired .. ' ', ' ' .. pct .. ' ', 1, true) then
      fired = fired .. (fired == '' and '' or ' ') .. pct
      due = due or {}
      due[#due + 1] = pct
    end
  end
  local pauses = exceed == 'pause' and counter.budget ~= '' and state == 'active' and counter.used >= limit
  if not due and not pauses then return end
  call('XLEN', counter.outbox)
  counter.due, counter.pauses, counter.alerted, counter.org, counter.limit_now = due, pauses, fired, org, limit
end

-- Tell what was found due, and pause where the budget says so. A posting has no place in the audit log: whoever takes the event up
-- writes the pause down there ("by": "ledger").
local function tell_thresholds(counter, now)
  for _, pct in ipairs(counter.due or {}) do
    tell(counter.outbox, 'budget.alert', now, counter.org,
      format('"pct":%s,', pct) .. told(counter.key, counter.budget, counter.limit_now, counter.used))
  end
  if counter.due then call('HSET', counter.key, 'alerted', counter.alerted) end
  if counter.pauses then
    call('HSET', counter.budget, 'state', 'paused')
    tell(counter.outbox, 'budget.paused', now, counter.org,
      '"by":"ledger",' .. told(counter.key, counter.budget, counter.limit_now, counter.used))
  end
end

-- What becomes of a line of a day's usage: requests, input, cached and output tokens, cost, and what of it each pocket paid.
local USAGE_LIFE = 34560000000
local function add_usage(counter, requests, tokens, cost, paid)
  local n = {}
  for figure in string.gmatch(counter.line or '0 0 0 0 0 0 0 0', '%d+') do n[#n + 1] = tonumber(figure) end
  if #n ~= 8 then fail('corrupt: usage') end
  local input, cached, output = string.match(tokens == '' and '0 0 0' or tokens, '^(%d+) (%d+) (%d+)$')
  local adds = {requests, int(input, 'input tokens'), int(cached, 'cached tokens'), int(output, 'output tokens'), cost,
    paid[1] or 0, paid[2] or (#paid == 0 and cost or 0), paid[3] or 0}
  for i = 1, 8 do n[i] = digits(n[i] + adds[i]) end
  counter.line_after = table.concat(n, ' ')
end

local function save_usage(counter)
  call('HSET', counter.key, counter.detail, counter.line_after)
  if not counter.line then call('PEXPIRE', counter.key, digits(USAGE_LIFE)) end
end

-- End an open hold as `state`, at `cost`: from the hold, then, never above its ceiling, from what is available and every
-- scope allows; what is then missing is the shortfall. A void uses nothing up, an expiry only where something was earned.
-- KEYS are account, hold, open holds, journal, scopes.
local function settle(id, hold, account, counters, now, state, cost, outcome, retention, tokens)
  local amount, payable = hold[AMOUNT], math.min(cost, hold[CEILING])
  local from_hold = math.min(payable, amount)
  local extra = payable > from_hold and math.min(payable - from_hold, room_of(account, counters, now)) or 0
  local posted, uses = from_hold + extra, (state == 'posted' or cost > 0) and 1 or 0
  release(account, hold[SPLIT], amount - from_hold)
  account.held = account.held - from_hold
  account.posted = account.posted + from_hold
  if account.held < 0 then fail('corrupt: less is held than the hold holds') end
  for i, pocket in ipairs(account.pockets or {}) do
    pocket.held = pocket.held - hold[SPLIT][i]
    pocket.posted = pocket.posted + hold[SPLIT][i]
  end
  take(account, hold[SPLIT], extra)
  local cut = lower(account)
  hold[STATE], hold[POSTED], hold[SHORTFALL] = state, posted, cost - posted
  hold[COST] = state == 'expired' and -1 or cost
  hold[ENDED_AT], hold[OUTCOME] = now, outcome
  if state ~= 'expired' then hold[SCOPES] = {} end
  local more = hold[OWNER] ~= '' and ' owner=' .. hold[OWNER] or ''
  if cost > posted then more = more .. ' shortfall=' .. digits(cost - posted) end
  for i, counter in ipairs(counters) do
    if counter.gone and (counter.measure == 'm' or counter.measure == 'u') then more = more .. ' scope_lost=' .. i end
    local one = counter.measure == 'u' or counter.measure == 'o'
    counter.held = math.max(counter.held - (one and 1 or amount), 0)
    counter.used = counter.used + (one and uses or posted)
    if uses > 0 and counter.measure == 'y' then
      add_usage(counter, 1, tokens or '', posted, hold[SPLIT])
    elseif uses > 0 then
      weigh_thresholds(counter, now)
    end
  end

  journal(KEYS[4], state, now, hold[ACCOUNT], id,
    digits(amount - posted) .. ' -' .. digits(amount) .. ' 0 ' .. digits(posted) .. ' 0', more)
  journal_lowered(KEYS[4], cut, now, hold[ACCOUNT], id)
  save_account(KEYS[1], account)
  -- Only what the payer could have been asked for counts against it: beyond the ceiling it is the upstream that erred.
  if payable > posted then call('HSET', KEYS[1], 'shortfalls', digits(account.shortfalls + 1)) end
  call('SET', KEYS[2], cmsgpack.pack(hold), 'PX', digits(retention))
  call('ZREM', KEYS[3], id)
  for _, counter in ipairs(counters) do
    if counter.measure == 'y' then
      if counter.line_after then save_usage(counter) end
    elseif counter.measure == 'q' then
      -- Nothing was had for the approval: it is open again.
      if uses == 0 and counter.quote[2] == id then call('HSET', counter.key, 'state', 'approved', 'hold', '') end
    else
      save_counter(counter)
      if uses > 0 then tell_thresholds(counter, now) end
    end
  end
  return posted_reply(hold, account, 0)
end
